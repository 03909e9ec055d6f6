/* A guest of one screen: prints its command line on the serial console and does what the last word says:
 * `clean` and `crash` end as Unikraft does, `three` with code 3, `zero` with 0 through the debug port; `off`
 * switches the machine off, `reset` resets it, `rng` complains as Unikraft without RDSEED does and switches off;
 * anything else waits for ever. */
.section .text
.balign 4
.long 0x1BADB002, 0, -0x1BADB002        /* multiboot 1 header: magic, flags, checksum */
.globl _start
_start:
    movl $stack, %esp
    movl 16(%ebx), %esi                 /* multiboot information: cmdline */
    movl $hello, %edi
    call print
    movl %esi, %edi
    call print
    movl $newline, %edi
    call print
    movl %esi, %edi
1:  movb (%edi), %al                    /* the last letter tells them apart */
    incl %edi
    testb %al, %al
    jnz 1b
    movb -2(%edi), %al
    movw $0x501, %dx                    /* isa-debug-exit: QEMU ends with 2n + 1 */
    movw $41, %bx
    cmpb $'n', %al
    je end
    movw $42, %bx
    cmpb $'h', %al
    je end
    movw $3, %bx
    cmpb $'e', %al
    je end
    movw $0, %bx
    cmpb $'o', %al
    je end
    cmpb $'f', %al
    je off
    cmpb $'t', %al
    je reset
    cmpb $'g', %al
    jne wait
    movl $random, %edi
    call print
off:
    movw $0x604, %dx                    /* the board's ACPI control: sleep state 5 */
    movw $0x2000, %ax
    outw %ax, %dx
    jmp wait
reset:
    lidt nothing
    int3                                /* no table, no handler: a triple fault */
wait:
    hlt
    jmp wait
end:
    movw %bx, %ax
    outw %ax, %dx
    jmp wait
print:
    movb (%edi), %al
    testb %al, %al
    jz 2f
    movw $0x3F8, %dx
    outb %al, %dx
    incl %edi
    jmp print
2:  ret
hello:   .asciz "guest: "
newline: .asciz "\n"
random:  .asciz "[    0.000000] ERR:  Could not initialize the HWRNG (-95)\n"
nothing: .skip 8
.bss
.skip 4096
stack:
