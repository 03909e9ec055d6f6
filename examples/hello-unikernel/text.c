#include "text.h"

static void add_byte(struct text *text, char byte)
{
    if (text->length < text->room)
        text->start[text->length++] = byte;
}

void text_add(struct text *text, const char *words)
{
    while (*words)
        add_byte(text, *words++);
}

void text_number(struct text *text, uint32_t number)
{
    char digits[10];
    size_t count = 0;
    do
        digits[count++] = (char)('0' + number % 10);
    while (number /= 10);
    while (count)
        add_byte(text, digits[--count]);
}

void text_hexadecimal(struct text *text, uint32_t number)
{
    text_add(text, "0x");
    for (int shift = 28; shift >= 0; shift -= 4)
        add_byte(text, "0123456789abcdef"[number >> shift & 15]);
}

void text_address(struct text *text, uint32_t address)
{
    for (int shift = 24; shift >= 0; shift -= 8) {
        text_number(text, address >> shift & 255);
        if (shift)
            add_byte(text, '.');
    }
}

void text_hundredths(struct text *text, uint32_t hundredths)
{
    text_number(text, hundredths / 100);
    add_byte(text, '.');
    add_byte(text, (char)('0' + hundredths / 10 % 10));
    add_byte(text, (char)('0' + hundredths % 10));
}

size_t text_length(const char *words)
{
    size_t length = 0;
    while (words[length])
        length++;
    return length;
}

bool text_is(const char *words, size_t length, const char *expected)
{
    return text_length(expected) == length && memcmp(words, expected, length) == 0;
}

bool text_begins(const char *words, const char *beginning)
{
    while (*beginning)
        if (*words++ != *beginning++)
            return false;
    return true;
}

bool text_read_number(const char **at, uint32_t most, uint32_t *number)
{
    const char *digit = *at;
    uint32_t value = 0;
    for (; *digit >= '0' && *digit <= '9'; digit++) {
        uint32_t next = (uint32_t)(*digit - '0');
        if (value > (most - next) / 10 || next > most)
            return false;
        value = value * 10 + next;
    }
    if (digit == *at)
        return false;
    *at = digit;
    *number = value;
    return true;
}
