/* Ethernet, ARP (RFC 826), IPv4 (RFC 791) and ICMP echo (RFC 792): what lies between the card and TCP.
 *
 * We only ever answer, so an answer goes back to the hardware address that the question came from: no routes, no
 * ARP requests of our own. Fragments are dropped: TCP's segments fit into a frame.
 */
#pragma once
#include "memory.h"

enum { IP_PAYLOAD_BYTES = 1480 };

/* The other end, as a packet from it says. */
struct peer {
    uint32_t address;
    uint8_t mac[6];
};

void net_start(uint32_t address);
void net_receive(const uint8_t *frame, size_t length);

uint8_t *net_payload(void);             /* where the next packet's payload goes: IP_PAYLOAD_BYTES */
void net_send_tcp(const struct peer *peer, size_t length);      /* adds TCP's checksum */
