/* The unikernel: reads how it was started, brings up the machine and serves until it is switched off. */
#include "cmdline.h"
#include "console.h"
#include "machine.h"
#include "net.h"
#include "nic.h"
#include "tcp.h"

enum { DEFAULT_PORT = 8080, CANNOT_START = 2 };

/* Multiboot 0.6.96, 3.3: the fields that we read. */
enum { MULTIBOOT_MAGIC = 0x2BADB002, MULTIBOOT_HAS_CMDLINE = 1 << 2 };
struct multiboot {
    uint32_t flags, memory_low, memory_high, boot_device, cmdline;
};

/* Xen's public/arch-x86/hvm/start_info.h. */
enum { PVH_MAGIC = 0x336EC578 };
struct pvh {
    uint32_t magic, version, flags, modules;
    uint64_t module_list, cmdline;
};

static const char *command_line(uint32_t magic, uint32_t information)
{
    const struct multiboot *multiboot = (const struct multiboot *)information;
    const struct pvh *pvh = (const struct pvh *)information;
    if (magic == MULTIBOOT_MAGIC)
        return multiboot->flags & MULTIBOOT_HAS_CMDLINE ? (const char *)multiboot->cmdline : "";
    if (pvh->magic == PVH_MAGIC)
        return pvh->cmdline ? (const char *)(uint32_t)pvh->cmdline : "";
    machine_crash("booted by neither multiboot 1 nor PVH");
}

static uint16_t port_to_serve(void)
{
    const char *given = cmdline_argument(0);
    uint32_t port;
    if (!given)
        return DEFAULT_PORT;
    if (text_read_number(&given, 65535, &port) && port && !*given)
        return (uint16_t)port;
    console_write("hello: argument 1 is no port (expected 1 to 65535)\n");
    machine_exit(CANNOT_START);
}

static void say_ready(uint16_t port)
{
    LINE(line);
    text_add(&line, "hello: serving http://");
    text_address(&line, cmdline_address());
    text_add(&line, ":");
    text_number(&line, port);
    text_add(&line, "/\n");
    console_print(&line);
}

static _Noreturn void serve(void)
{
    uint32_t last_tick = machine_ticks();
    for (;;) {
        while (nic_has_frame())
            nic_receive(net_receive);
        if (machine_ticks() != last_tick) {
            last_tick = machine_ticks();
            tcp_tick();
        }
        nic_flush();
        machine_hold();
        if (nic_has_frame() || machine_ticks() != last_tick)
            machine_resume();
        else
            machine_sleep();
    }
}

_Noreturn void kernel_main(uint32_t magic, uint32_t information)
{
    console_start();
    console_write("\n");                /* the firmware left the cursor in the middle of a line */
    machine_start();
    if (!cmdline_read(command_line(magic, information)))
        machine_exit(CANNOT_START);
    uint16_t port = port_to_serve();
    if (!nic_start())
        machine_exit(CANNOT_START);
    net_start(cmdline_address());
    tcp_listen(port);
    say_ready(port);
    serve();
}
