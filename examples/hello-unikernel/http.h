/* What the server says: one request and one reply a connection (HTTP/1.0, RFC 1945).
 *
 *     GET /           the page: greeting, requests so far, uptime
 *     GET /healthz    ok
 *     GET /exit/N     ends the machine with code N once the reply has arrived
 *     GET /panic      crashes it likewise
 */
#pragma once
#include "text.h"

/* The room for a request is twice what it may take: so the window that TCP offers always holds a whole segment, and
 * no sender has to wait until there is more. */
enum { LONGEST_REQUEST = 2048, REQUEST_BYTES = 2 * LONGEST_REQUEST, REPLY_BYTES = 1400 };

enum afterwards { CARRY_ON, EXIT, PANIC };

struct exchange {
    size_t request_length, reply_length;
    enum afterwards afterwards;         /* what to do once the reply has arrived */
    uint32_t exit_code;
    char request[REQUEST_BYTES], reply[REPLY_BYTES];
};

/* Whether the request is whole (or can never be); if so, the reply is written. */
bool http_answer(struct exchange *exchange);

/* The client has the whole reply, or is gone. */
void http_done(const struct exchange *exchange);
