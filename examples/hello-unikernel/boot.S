/* How the kernel is entered: two boot protocols, one entry, and the gates through which interrupts arrive.
 *
 * A boot loader puts us into 32-bit protected mode without paging. Multiboot 1 hands over 0x2BADB002 in %eax
 * and its information in %ebx; PVH (Xen's direct boot, also QEMU's and Firecracker's) hands over its start
 * information in %ebx alone. main.c tells the two apart.
 */
        .section .multiboot, "a"
        .balign 4
        .set    MULTIBOOT_MAGIC, 0x1BADB002
        .set    MULTIBOOT_FLAGS, 0              /* an ELF file: its own headers say where it goes */
        .long   MULTIBOOT_MAGIC, MULTIBOOT_FLAGS, -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)

        .section .note.pvh, "a", @note
        .balign 4
        .long   4, 4, 18                        /* sizes of name and value; 18 is XEN_ELFNOTE_PHYS32_ENTRY */
        .asciz  "Xen"
        .long   _start

        .section .text
        .globl  _start
_start:
        cli
        cld
        movl    $stack_top, %esp
        lgdt    gdt_pointer                     /* the loader's own table may be anywhere: never trust it */
        ljmp    $0x08, $1f
1:      movl    $0x10, %ecx
        movl    %ecx, %ds
        movl    %ecx, %es
        movl    %ecx, %fs
        movl    %ecx, %gs
        movl    %ecx, %ss
        pushl   %ebx
        pushl   %eax
        call    kernel_main
2:      cli
        hlt
        jmp     2b

/* Flat segments: everything is at its physical address. */
        .section .rodata
        .balign 8
gdt:    .quad   0
        .quad   0x00CF9A000000FFFF              /* 0x08: code */
        .quad   0x00CF92000000FFFF              /* 0x10: data */
gdt_pointer:
        .word   . - gdt - 1
        .long   gdt

/* One gate a vector, 16 bytes each: 0-31 are the processor's exceptions, 32-47 the devices' lines. Some
 * exceptions push an error code; the others get a zero, so that the frame looks the same. */
        .section .text
        .set    WITH_ERROR_CODE, (1 << 8) | (1 << 10) | (1 << 11) | (1 << 12) | (1 << 13) | (1 << 14) | (1 << 17) \
                                 | (1 << 21) | (1 << 29) | (1 << 30)
        .globl  interrupt_gates
        .balign 16
interrupt_gates:
        .set    number, 0
        .rept   48
        .balign 16
        .if     number > 31 || ((WITH_ERROR_CODE >> (number & 31)) & 1) == 0
        pushl   $0
        .endif
        pushl   $number
        jmp     interrupted
        .set    number, number + 1
        .endr

interrupted:
        pusha
        cld
        pushl   %esp                            /* struct interrupt_frame *, see machine.h */
        call    machine_interrupted
        addl    $4, %esp
        popa
        addl    $8, %esp                        /* vector and error code */
        iret

        .section .bss
        .balign 16
        .skip   16384
stack_top:

        .section .note.GNU-stack, "", @progbits
