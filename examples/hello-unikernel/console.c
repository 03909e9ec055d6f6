#include "console.h"
#include "machine.h"

enum {
    COM1 = 0x3F8,
    DATA = COM1, DIVISOR_LOW = COM1, INTERRUPTS = COM1 + 1, DIVISOR_HIGH = COM1 + 1, FIFO = COM1 + 2,
    LINE_CONTROL = COM1 + 3, LINE_STATUS = COM1 + 5,
    DIVISOR_ACCESS = 0x80, EIGHT_BITS = 0x03, FIFO_ON_AND_EMPTY = 0x07, READY_TO_SEND = 0x20,
};

void console_start(void)
{
    out8(INTERRUPTS, 0);                /* we only write, and wait until there is room */
    out8(LINE_CONTROL, DIVISOR_ACCESS);
    out8(DIVISOR_LOW, 1);               /* 115200 baud */
    out8(DIVISOR_HIGH, 0);
    out8(LINE_CONTROL, EIGHT_BITS);
    out8(FIFO, FIFO_ON_AND_EMPTY);
}

static void write_byte(char byte)
{
    while (!(in8(LINE_STATUS) & READY_TO_SEND))
        ;
    out8(DATA, (uint8_t)byte);
}

void console_print(const struct text *text)
{
    for (size_t index = 0; index < text->length; index++) {
        if (text->start[index] == '\n')
            write_byte('\r');
        write_byte(text->start[index]);
    }
}

void console_write(const char *words)
{
    size_t length = text_length(words);
    struct text text = {(char *)words, length, length};
    console_print(&text);
}
