/* The serial console (COM1): what the kernel says, line by line. */
#pragma once
#include "text.h"

void console_start(void);
void console_write(const char *words);
void console_print(const struct text *text);

/* A text of one line on the stack, to be filled and given to console_print. */
#define LINE(name) char name##_bytes[160]; struct text name = {name##_bytes, sizeof name##_bytes, 0}
