/* Entry, interrupt stubs and the start of further processors of the torture guest: Multiboot, 32-bit protected mode, no paging. */

    .set MULTIBOOT_MAGIC, 0x1badb002

    .section .multiboot, "a"
    .align 4
    .long MULTIBOOT_MAGIC, 0, -MULTIBOOT_MAGIC

    .text
    .global _start
_start:
    cli
    mov $boot_stack_top, %esp
    lgdt gdt_pointer
    ljmp $8, $1f
1:  mov $16, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %fs
    mov %ax, %gs
    mov %ax, %ss
    push %ebx
    call boot_main
2:  cli
    hlt
    jmp 2b

/* One stub of 16 bytes a vector: an error code, real or zero, and the vector go on the stack. */
    .balign 16
    .global stubs
stubs:
    vector = 0
    .rept 256
    .balign 16
    .if (vector != 8) && ((vector < 10) || (vector > 14)) && (vector != 17) && (vector != 21)
    push $0
    .endif
    push $vector
    jmp common
    vector = vector + 1
    .endr

common:
    pusha
    cld
    push %esp
    call on_interrupt
    add $4, %esp
    popa
    add $8, %esp
    iret

/* Copied to 0x8000, where SIPI 8 starts a processor in real mode. Its stack is handed out by a counter. */
    .global trampoline, trampoline_end
    .code16
trampoline:
    cli
    xor %ax, %ax
    mov %ax, %ds
    lgdtl gdt_copy - trampoline + 0x8000
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $8, $protected
    .align 4
gdt_copy:
    .word 23
    .long gdt
trampoline_end:
    .code32
protected:
    mov $16, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %fs
    mov %ax, %gs
    mov %ax, %ss
    mov $1, %eax
    lock xadd %eax, started
    inc %eax
    shl $14, %eax
    lea stacks(%eax), %esp
    add $0x4000, %esp
    call processor_main
3:  cli
    hlt
    jmp 3b

    .data
    .align 8
gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
    .word 23
    .long gdt
    .global started
started:
    .long 0

    .bss
    .align 16
    .skip 0x4000
boot_stack_top:
    .global stacks
stacks:
    .skip 0x4000 * 9
