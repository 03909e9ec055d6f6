#include "machine.h"
#include "console.h"

enum {
    PIC1 = 0x20, PIC1_MASK = 0x21, PIC2 = 0xA0, PIC2_MASK = 0xA1,       /* two interrupt controllers, 8259 */
    PIC_START = 0x11, PIC_8086 = 0x01, PIC_END = 0x20, PIC_READ_SERVED = 0x0B, CASCADE = 2,
    FIRST_LINE_VECTOR = 32, LINES = 16,
    PIT_COUNTER = 0x40, PIT_COMMAND = 0x43, PIT_RATE_GENERATOR = 0x34, PIT_HERTZ = 1193182,
    DEBUG_EXIT = 0x501, ACPI_CONTROL = 0x604, ACPI_OFF = 0x2000, KEYBOARD = 0x64, KEYBOARD_RESET = 0xFE,
    INTERRUPT_GATE = 0x8E, CODE_SEGMENT = 0x08, GATE_BYTES = 16, VECTORS = FIRST_LINE_VECTOR + LINES,
};

struct __attribute__((packed)) gate {
    uint16_t offset_low, segment;
    uint8_t zero, kind;
    uint16_t offset_high;
};

extern const uint8_t interrupt_gates[];         /* boot.S */

static struct gate gates[VECTORS];
static void (*handlers[LINES])(void);
static volatile uint32_t ticks;

static void tick(void)
{
    ticks++;
}

static void start_interrupts(void)
{
    for (uint32_t vector = 0; vector < VECTORS; vector++) {
        uint32_t entry = (uint32_t)interrupt_gates + vector * GATE_BYTES;
        gates[vector] = (struct gate){(uint16_t)entry, CODE_SEGMENT, 0, INTERRUPT_GATE, (uint16_t)(entry >> 16)};
    }
    struct __attribute__((packed)) { uint16_t limit; uint32_t base; } pointer = {sizeof gates - 1, (uint32_t)gates};
    __asm__ volatile("lidt %0" : : "m"(pointer));

    /* The lines come at vectors 32 to 47: by default they would look like the processor's exceptions. */
    out8(PIC1, PIC_START);
    out8(PIC2, PIC_START);
    out8(PIC1_MASK, FIRST_LINE_VECTOR);
    out8(PIC2_MASK, FIRST_LINE_VECTOR + 8);
    out8(PIC1_MASK, 1 << CASCADE);
    out8(PIC2_MASK, CASCADE);
    out8(PIC1_MASK, PIC_8086);
    out8(PIC2_MASK, PIC_8086);
    out8(PIC1_MASK, (uint8_t)~(1 << CASCADE));
    out8(PIC2_MASK, 0xFF);
}

void machine_start(void)
{
    start_interrupts();
    out8(PIT_COMMAND, PIT_RATE_GENERATOR);
    out8(PIT_COUNTER, (PIT_HERTZ / TICKS_PER_SECOND) & 0xFF);
    out8(PIT_COUNTER, (PIT_HERTZ / TICKS_PER_SECOND) >> 8);
    machine_listen(0, tick);
}

void machine_listen(uint8_t line, void (*handler)(void))
{
    if (line >= LINES)
        machine_crash("a device interrupts on a line that is not 0 to 15");
    handlers[line] = handler;
    uint16_t mask = line < 8 ? PIC1_MASK : PIC2_MASK;
    out8(mask, in8(mask) & (uint8_t)~(1 << line % 8));
}

/* Line 7 of a controller also stands for "it was nothing": then it is not served and wants no end. */
static bool is_spurious(uint32_t line)
{
    if (line % 8 != 7)
        return false;
    uint16_t controller = line < 8 ? PIC1 : PIC2;
    out8(controller, PIC_READ_SERVED);
    return !(in8(controller) & 0x80);
}

void machine_interrupted(struct interrupt_frame *frame)
{
    if (frame->vector < FIRST_LINE_VECTOR) {
        LINE(line);
        text_add(&line, "hello: exception ");
        text_number(&line, frame->vector);
        text_add(&line, ", error ");
        text_hexadecimal(&line, frame->error);
        text_add(&line, ", at ");
        text_hexadecimal(&line, frame->eip);
        text_add(&line, "\n");
        console_print(&line);
        machine_crash("the processor raised an exception");
    }
    uint32_t line = frame->vector - FIRST_LINE_VECTOR;
    bool spurious = is_spurious(line);
    if (!spurious && handlers[line])
        handlers[line]();
    if (line >= 8 && !spurious)
        out8(PIC2, PIC_END);
    if (line >= 8 || !spurious)
        out8(PIC1, PIC_END);
}

void machine_hold(void)
{
    __asm__ volatile("cli" : : : "memory");
}

void machine_resume(void)
{
    __asm__ volatile("sti" : : : "memory");
}

void machine_sleep(void)
{
    /* sti takes effect after the next instruction: no interrupt can slip in between and leave us asleep. */
    __asm__ volatile("sti; hlt" : : : "memory");
}

uint32_t machine_ticks(void)
{
    return ticks;
}

uint32_t machine_cycles(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return high << 22 | low >> 10;
}

static _Noreturn void end(uint16_t code)
{
    machine_hold();
    out16(DEBUG_EXIT, code);            /* ends QEMU if it has the device, else nothing listens there */
    out16(ACPI_CONTROL, ACPI_OFF);
    out8(KEYBOARD, KEYBOARD_RESET);
    for (;;)
        __asm__ volatile("hlt");
}

void machine_exit(uint32_t code)
{
    LINE(line);
    text_add(&line, "hello: exit ");
    text_number(&line, code);
    text_add(&line, "\n");
    console_print(&line);
    end(code ? (uint16_t)code : CODE_OF_CLEAN);
}

void machine_crash(const char *why)
{
    console_write("hello: crash: ");
    console_write(why);
    console_write("\n");
    end(CODE_OF_CRASH);
}
