/* Text in fixed space: what does not fit is cut off, never written beyond the end. */
#pragma once
#include "memory.h"

struct text {
    char *start;
    size_t room;                /* of `start`, in bytes */
    size_t length;              /* so far; no zero byte follows */
};

void text_add(struct text *text, const char *words);
void text_number(struct text *text, uint32_t number);
void text_hexadecimal(struct text *text, uint32_t number);
void text_address(struct text *text, uint32_t address);         /* IPv4, dotted */
void text_hundredths(struct text *text, uint32_t hundredths);   /* 123 is written 1.23 */

size_t text_length(const char *words);
bool text_is(const char *words, size_t length, const char *expected);
bool text_begins(const char *words, const char *beginning);

/* Reads a decimal number and moves `*at` behind it; false where no digit is or it exceeds `most`. */
bool text_read_number(const char **at, uint32_t most, uint32_t *number);
