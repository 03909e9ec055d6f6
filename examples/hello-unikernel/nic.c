#include "nic.h"
#include "console.h"
#include "machine.h"

enum {
    PCI_ADDRESS = 0xCF8, PCI_DATA = 0xCFC, PCI_ENABLE = (int)0x80000000,
    PCI_IDENTITY = 0x00, PCI_COMMAND = 0x04, PCI_BAR0 = 0x10, PCI_INTERRUPT_LINE = 0x3C,
    PCI_COMMAND_IO = 1, PCI_COMMAND_MASTER = 4, BAR_IS_IO = 1,
    VIRTIO_NET_LEGACY = 0x10001AF4,     /* device 0x1000 of vendor 0x1AF4 */

    DEVICE_FEATURES = 0, DRIVER_FEATURES = 4, QUEUE_PAGE = 8, QUEUE_SIZE = 12, QUEUE_SELECT = 14,
    QUEUE_NOTIFY = 16, STATUS = 18, INTERRUPT_STATUS = 19, MAC_ADDRESS = 20,
    ACKNOWLEDGED = 1, DRIVER = 2, DRIVER_READY = 4,
    FEATURE_MAC = 1 << 5,

    RECEIVING = 0, SENDING = 1, MOST_ENTRIES = 1024, PAGE = 4096,
    DESCRIPTOR_CHAINED = 1, DESCRIPTOR_DEVICE_WRITES = 2, NO_INTERRUPT = 1,
    RECEIVE_BUFFERS = 64, SEND_BUFFERS = 64, BUFFER_BYTES = 1536, HEADER_BYTES = 10,
};

struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};

struct used_entry {
    uint32_t head, length;
};

/* A queue as driver and device share it: descriptors, what we offer, and, on a page of its own, what was used. */
struct queue {
    struct descriptor *descriptors;
    volatile uint16_t *offered;         /* flags, count, then the ring of heads */
    volatile uint16_t *used;            /* flags, count, then the ring of used_entry */
    uint16_t entries, offered_count, seen, index;
    bool untold;                        /* the device has not been notified of the last offers */
};

static uint8_t queue_memory[2][PAGE * 8] __attribute__((aligned(4096)));
static struct queue receiving, sending;
static uint8_t receive_headers[RECEIVE_BUFFERS][HEADER_BYTES], receive_buffers[RECEIVE_BUFFERS][BUFFER_BYTES];
static uint8_t send_header[HEADER_BYTES], send_buffers[SEND_BUFFERS][BUFFER_BYTES];
static uint16_t ports, send_next;
static uint8_t mac[6];

static inline void fence(void)
{
    /* x86 keeps the order of stores; the device (another thread) must also see a store before our next load. */
    __asm__ volatile("lock; addl $0, (%%esp)" : : : "memory");
}

static uint32_t pci_read(uint32_t slot, uint32_t where)
{
    out32(PCI_ADDRESS, (uint32_t)PCI_ENABLE | slot << 11 | where);
    return in32(PCI_DATA);
}

static void pci_write(uint32_t slot, uint32_t where, uint32_t value)
{
    out32(PCI_ADDRESS, (uint32_t)PCI_ENABLE | slot << 11 | where);
    out32(PCI_DATA, value);
}

static void interrupted(void)
{
    (void)in8(ports + INTERRUPT_STATUS);        /* reading it lowers the line; the main loop does the work */
}

static bool queue_start(struct queue *queue, uint16_t index)
{
    out16(ports + QUEUE_SELECT, index);
    uint16_t entries = in16(ports + QUEUE_SIZE);
    if (entries < 2 * RECEIVE_BUFFERS || entries > MOST_ENTRIES) {
        console_write("hello: a queue of the network card has fewer than 128 or more than 1024 entries\n");
        return false;
    }
    uint8_t *memory = queue_memory[index];
    size_t offered_end = sizeof(struct descriptor) * entries + 2u * (3u + entries);
    queue->descriptors = (struct descriptor *)memory;
    queue->offered = (volatile uint16_t *)(memory + sizeof(struct descriptor) * entries);
    queue->used = (volatile uint16_t *)(memory + ((offered_end + PAGE - 1) & ~(size_t)(PAGE - 1)));
    queue->entries = entries;
    queue->index = index;
    out32(ports + QUEUE_PAGE, (uint32_t)memory / PAGE);
    return true;
}

/* A frame takes two descriptors: the legacy interface wants the virtio header in one of its own. */
static void queue_describe(struct queue *queue, uint16_t pair, uint8_t *header, uint8_t *frame, size_t length,
                           uint16_t flags)
{
    uint16_t head = (uint16_t)(2 * pair), rest = (uint16_t)(head + 1);
    queue->descriptors[head] = (struct descriptor){(uint32_t)header, HEADER_BYTES, flags | DESCRIPTOR_CHAINED, rest};
    queue->descriptors[rest] = (struct descriptor){(uint32_t)frame, length, flags, 0};
}

static void queue_offer(struct queue *queue, uint16_t head)
{
    queue->offered[2 + queue->offered_count % queue->entries] = head;
    fence();
    queue->offered[1] = ++queue->offered_count;
    queue->untold = true;
}

static void queue_tell(struct queue *queue)
{
    if (!queue->untold)
        return;
    queue->untold = false;
    fence();
    out16(ports + QUEUE_NOTIFY, queue->index);
}

static bool device_start(uint32_t slot)
{
    pci_write(slot, PCI_COMMAND, pci_read(slot, PCI_COMMAND) | PCI_COMMAND_IO | PCI_COMMAND_MASTER);
    ports = (uint16_t)(pci_read(slot, PCI_BAR0) & ~3u);
    out8(ports + STATUS, 0);
    out8(ports + STATUS, ACKNOWLEDGED);
    out8(ports + STATUS, ACKNOWLEDGED | DRIVER);
    out32(ports + DRIVER_FEATURES, in32(ports + DEVICE_FEATURES) & FEATURE_MAC);
    if (!queue_start(&receiving, RECEIVING) || !queue_start(&sending, SENDING))
        return false;
    for (uint16_t index = 0; index < sizeof mac; index++)
        mac[index] = in8(ports + MAC_ADDRESS + index);
    for (uint16_t pair = 0; pair < RECEIVE_BUFFERS; pair++) {
        queue_describe(&receiving, pair, receive_headers[pair], receive_buffers[pair], BUFFER_BYTES,
                       DESCRIPTOR_DEVICE_WRITES);
        queue_offer(&receiving, (uint16_t)(2 * pair));
    }
    sending.offered[0] = NO_INTERRUPT;          /* we look for free buffers when we need one */
    out8(ports + STATUS, ACKNOWLEDGED | DRIVER | DRIVER_READY);
    nic_flush();
    machine_listen((uint8_t)pci_read(slot, PCI_INTERRUPT_LINE), interrupted);
    return true;
}

bool nic_start(void)
{
    for (uint32_t slot = 0; slot < 32; slot++)
        if (pci_read(slot, PCI_IDENTITY) == VIRTIO_NET_LEGACY && pci_read(slot, PCI_BAR0) & BAR_IS_IO)
            return device_start(slot);
    console_write("hello: no network card (expected virtio-net-pci on bus 0 with its legacy interface)\n");
    return false;
}

const uint8_t *nic_address(void)
{
    return mac;
}

bool nic_has_frame(void)
{
    return receiving.seen != receiving.used[1];
}

void nic_receive(void (*handler)(const uint8_t *frame, size_t length))
{
    fence();
    const volatile struct used_entry *entry = (const volatile struct used_entry *)(receiving.used + 2);
    entry += receiving.seen % receiving.entries;
    uint32_t head = entry->head, length = entry->length;
    receiving.seen++;
    if (length > HEADER_BYTES && length <= HEADER_BYTES + BUFFER_BYTES)
        handler(receive_buffers[head / 2 % RECEIVE_BUFFERS], length - HEADER_BYTES);
    queue_offer(&receiving, (uint16_t)head);
}

uint8_t *nic_frame(void)
{
    /* Used in the order in which they were offered: the network back ends of QEMU keep it. */
    if ((uint16_t)(sending.offered_count - sending.used[1]) >= SEND_BUFFERS) {
        queue_tell(&sending);
        while ((uint16_t)(sending.offered_count - sending.used[1]) >= SEND_BUFFERS)
            __asm__ volatile("pause");
    }
    return send_buffers[send_next];
}

void nic_send(size_t length)
{
    enum { SHORTEST = 60 };
    if (length < SHORTEST) {
        memset(send_buffers[send_next] + length, 0, SHORTEST - length);
        length = SHORTEST;
    }
    queue_describe(&sending, send_next, send_header, send_buffers[send_next], length, 0);
    queue_offer(&sending, (uint16_t)(2 * send_next));
    send_next = (uint16_t)((send_next + 1) % SEND_BUFFERS);
}

void nic_flush(void)
{
    queue_tell(&sending);
    queue_tell(&receiving);
}
