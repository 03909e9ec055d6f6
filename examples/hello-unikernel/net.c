#include "net.h"
#include "nic.h"
#include "tcp.h"

enum {
    ETHERNET_BYTES = 14, ETHERNET_SOURCE = 6, ETHERNET_KIND = 12, KIND_IP = 0x0800, KIND_ARP = 0x0806,
    ARP_BYTES = 28, ARP_OPERATION = 6, ARP_SENDER = 8, ARP_SENDER_IP = 14, ARP_TARGET = 18, ARP_TARGET_IP = 24,
    ARP_REQUEST = 1, ARP_REPLY = 2,
    IP_BYTES = 20, IP_LENGTH = 2, IP_FRAGMENT = 6, IP_LIFETIME = 8, IP_PROTOCOL = 9, IP_CHECKSUM = 10,
    IP_SOURCE = 12, IP_TARGET = 16, IP_VERSION_4 = 0x40, IP_DO_NOT_FRAGMENT = 0x4000, IP_IS_FRAGMENT = 0x3FFF,
    PROTOCOL_ICMP = 1, PROTOCOL_TCP = 6,
    ICMP_BYTES = 8, ICMP_CHECKSUM = 2, ICMP_ECHO = 8, ICMP_ECHO_REPLY = 0,
    TCP_BYTES = 20, TCP_CHECKSUM = 16,
};

static uint32_t our_address;

/* The ones' complement sum of RFC 1071, unfolded: sums of parts may be added. */
static uint32_t sum(const uint8_t *bytes, size_t length, uint32_t start)
{
    for (; length > 1; length -= 2, bytes += 2)
        start += get16(bytes);
    return length ? start + ((uint32_t)*bytes << 8) : start;
}

static uint16_t folded(uint32_t total)
{
    while (total >> 16)
        total = (total & 0xFFFF) + (total >> 16);
    return (uint16_t)~total;
}

/* Addresses, protocol and length belong to TCP's sum as well. */
static uint32_t sum_with_addresses(const uint8_t *ip, const uint8_t *payload, size_t length)
{
    return sum(payload, length, sum(ip + IP_SOURCE, 8, PROTOCOL_TCP + length));
}

void net_start(uint32_t address)
{
    our_address = address;
}

uint8_t *net_payload(void)
{
    return nic_frame() + ETHERNET_BYTES + IP_BYTES;
}

static void ethernet_header(uint8_t *frame, const uint8_t *target, uint16_t kind)
{
    memcpy(frame, target, 6);
    memcpy(frame + ETHERNET_SOURCE, nic_address(), 6);
    put16(frame + ETHERNET_KIND, kind);
}

static uint8_t *ip_header(uint8_t *frame, const struct peer *peer, uint8_t protocol, size_t length)
{
    uint8_t *ip = frame + ETHERNET_BYTES;
    ethernet_header(frame, peer->mac, KIND_IP);
    memset(ip, 0, IP_BYTES);
    ip[0] = IP_VERSION_4 | IP_BYTES / 4;
    put16(ip + IP_LENGTH, IP_BYTES + length);
    put16(ip + IP_FRAGMENT, IP_DO_NOT_FRAGMENT);        /* never a fragment, so the identification may be 0 */
    ip[IP_LIFETIME] = 64;
    ip[IP_PROTOCOL] = protocol;
    put32(ip + IP_SOURCE, our_address);
    put32(ip + IP_TARGET, peer->address);
    put16(ip + IP_CHECKSUM, folded(sum(ip, IP_BYTES, 0)));
    return ip;
}

void net_send_tcp(const struct peer *peer, size_t length)
{
    uint8_t *frame = nic_frame(), *ip = ip_header(frame, peer, PROTOCOL_TCP, length), *tcp = ip + IP_BYTES;
    put16(tcp + TCP_CHECKSUM, 0);
    put16(tcp + TCP_CHECKSUM, folded(sum_with_addresses(ip, tcp, length)));
    nic_send(ETHERNET_BYTES + IP_BYTES + length);
}

static void answer_echo(const struct peer *peer, const uint8_t *echo, size_t length)
{
    if (length < ICMP_BYTES || length > IP_PAYLOAD_BYTES || echo[0] != ICMP_ECHO || folded(sum(echo, length, 0)))
        return;
    uint8_t *frame = nic_frame(), *reply = net_payload();
    memcpy(reply, echo, length);
    reply[0] = ICMP_ECHO_REPLY;
    put16(reply + ICMP_CHECKSUM, 0);
    put16(reply + ICMP_CHECKSUM, folded(sum(reply, length, 0)));
    ip_header(frame, peer, PROTOCOL_ICMP, length);
    nic_send(ETHERNET_BYTES + IP_BYTES + length);
}

static void receive_ip(const uint8_t *frame, size_t length)
{
    const uint8_t *ip = frame + ETHERNET_BYTES;
    length -= ETHERNET_BYTES;
    if (length < IP_BYTES || (ip[0] & 0xF0) != IP_VERSION_4)
        return;
    size_t header = (ip[0] & 15u) * 4, total = get16(ip + IP_LENGTH);   /* short frames are padded: total counts */
    if (header < IP_BYTES || header > total || total > length || folded(sum(ip, header, 0)))
        return;
    if (get32(ip + IP_TARGET) != our_address || get16(ip + IP_FRAGMENT) & IP_IS_FRAGMENT)
        return;
    const uint8_t *payload = ip + header;
    size_t size = total - header;
    struct peer peer = {.address = get32(ip + IP_SOURCE)};
    memcpy(peer.mac, frame + ETHERNET_SOURCE, 6);
    if (ip[IP_PROTOCOL] == PROTOCOL_ICMP)
        answer_echo(&peer, payload, size);
    else if (ip[IP_PROTOCOL] == PROTOCOL_TCP && size >= TCP_BYTES && !folded(sum_with_addresses(ip, payload, size)))
        tcp_receive(&peer, payload, size);
}

static void answer_arp(const uint8_t *frame, size_t length)
{
    static const uint8_t ethernet_and_ip[6] = {0, 1, 8, 0, 6, 4};
    const uint8_t *arp = frame + ETHERNET_BYTES;
    if (length < ETHERNET_BYTES + ARP_BYTES || memcmp(arp, ethernet_and_ip, sizeof ethernet_and_ip) != 0)
        return;
    if (get16(arp + ARP_OPERATION) != ARP_REQUEST || get32(arp + ARP_TARGET_IP) != our_address)
        return;
    uint8_t *out = nic_frame(), *reply = out + ETHERNET_BYTES;
    ethernet_header(out, arp + ARP_SENDER, KIND_ARP);
    memcpy(reply, ethernet_and_ip, sizeof ethernet_and_ip);
    put16(reply + ARP_OPERATION, ARP_REPLY);
    memcpy(reply + ARP_SENDER, nic_address(), 6);
    put32(reply + ARP_SENDER_IP, our_address);
    memcpy(reply + ARP_TARGET, arp + ARP_SENDER, 10);           /* hardware address and IP address of who asked */
    nic_send(ETHERNET_BYTES + ARP_BYTES);
}

void net_receive(const uint8_t *frame, size_t length)
{
    if (length < ETHERNET_BYTES)
        return;
    uint16_t kind = get16(frame + ETHERNET_KIND);
    if (kind == KIND_ARP)
        answer_arp(frame, length);
    else if (kind == KIND_IP)
        receive_ip(frame, length);
}
