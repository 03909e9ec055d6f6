/* TCP (RFC 9293) as a server needs it that answers one request a connection and then closes.
 *
 * There are: segments in order, trimmed or asked for again; retransmission with doubling waits; the peer's window
 * and segment size; resets only inside of the window; a short TIME-WAIT. There are not: options other than the
 * segment size, window scaling, congestion control (a reply is one or two segments), connections from us.
 */
#pragma once
#include "net.h"

void tcp_listen(uint16_t port);
void tcp_receive(const struct peer *peer, const uint8_t *segment, size_t length);
void tcp_tick(void);                    /* at every tick of the clock: retransmit, give up, forget */
