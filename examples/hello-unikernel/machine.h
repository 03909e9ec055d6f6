/* The PC below: ports, interrupts, the clock and the ways to end. */
#pragma once
#include "memory.h"

/* What boot.S leaves on the stack when an interrupt arrives. */
struct interrupt_frame {
    uint32_t edi, esi, ebp, esp, ebx, edx, ecx, eax;
    uint32_t vector, error, eip, cs, eflags;
};

static inline void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void out16(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void out32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline uint8_t in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline uint16_t in16(uint16_t port)
{
    uint16_t value;
    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline uint32_t in32(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

/* Sets up interrupts and the clock; interrupts are off until the first machine_sleep or machine_resume. */
void machine_start(void);

/* Lets line 0 to 15 interrupt us; `handler` runs with interrupts off and must quieten its device. */
void machine_listen(uint8_t line, void (*handler)(void));

/* Interrupts off; what is decided until machine_sleep or machine_resume cannot be overtaken by one. */
void machine_hold(void);
void machine_resume(void);
void machine_sleep(void);               /* interrupts on, and the processor halts until the next one */

enum { TICKS_PER_SECOND = 25 };
uint32_t machine_ticks(void);           /* since the start; wraps after 2.7 years */
uint32_t machine_cycles(void);          /* the processor's own counter, its fast bits */

/* Ends the machine. QEMU's isa-debug-exit device at port 0x501 makes the exit status of it, as Unikraft's
 * does: 83 for code 0, 85 for a crash, else 2 * code + 1. So 41 and 42 are not codes, and 63 is the last. */
enum { LAST_EXIT_CODE = 63, CODE_OF_CLEAN = 41, CODE_OF_CRASH = 42 };
_Noreturn void machine_exit(uint32_t code);
_Noreturn void machine_crash(const char *why);
