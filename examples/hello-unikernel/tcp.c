#include "tcp.h"
#include "http.h"
#include "machine.h"

enum {
    SOURCE = 0, TARGET = 2, SEQUENCE = 4, ACKNOWLEDGEMENT = 8, OFFSET = 12, FLAGS = 13, WINDOW = 14, OPTIONS = 20,
    FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16,
    OPTION_END = 0, OPTION_NOTHING = 1, OPTION_SEGMENT_SIZE = 2,
    OUR_SEGMENT = 1460, DEFAULT_SEGMENT = 536, LEAST_SEGMENT = 64,
    CONNECTIONS = 128, ATTEMPTS = 7,
    FIRST_RETRANSMISSION = 3 * TICKS_PER_SECOND / 10,   /* one hop away: sooner than RFC 6298's second */
    MOST_PATIENCE = 10 * TICKS_PER_SECOND,              /* for a request, and for the peer's own FIN */
    TIME_WAIT_TICKS = TICKS_PER_SECOND,
    IDLE_BEFORE_EVICTION = TICKS_PER_SECOND,
};

enum state {
    FREE,
    SYN_RECEIVED,       /* answered a SYN, not yet acknowledged */
    ESTABLISHED,        /* reading the request */
    REPLYING,           /* the reply and our FIN are on their way, or arrived and the peer's FIN did not yet */
    TIME_WAIT,          /* both ended; answers a repeated FIN */
};

struct connection {
    enum state state;
    struct peer peer;
    uint16_t port;                      /* the peer's */
    uint16_t segment;                   /* largest payload that the peer takes */
    uint32_t received;                  /* next sequence number that we expect */
    uint32_t first;                     /* sequence number of the reply's first byte; our SYN is the one before */
    uint32_t acknowledged, next, highest;       /* of ours: arrived, sent next, most ever sent */
    uint32_t window;                    /* bytes beyond `acknowledged` that the peer takes */
    bool peer_finished;
    uint8_t attempts;                   /* retransmissions in a row that brought nothing */
    uint32_t since;                     /* tick of the last progress, or of the last attempt */
    struct exchange exchange;
};

/* A segment that arrived, taken apart. */
struct segment {
    uint16_t source, target;
    uint32_t sequence, acknowledgement, window;
    uint8_t flags;
    const uint8_t *options, *data;
    size_t options_length, length;
};

static struct connection connections[CONNECTIONS];
static uint16_t our_port;

/* Sequence numbers wrap: what is less than 2^31 ahead is later. */
static bool is_after(uint32_t left, uint32_t right)
{
    return (int32_t)(left - right) > 0;
}

void tcp_listen(uint16_t port)
{
    our_port = port;
}

/* ---- sending ---- */

static void send(const struct peer *peer, uint16_t port, uint16_t from, uint32_t sequence, uint32_t acknowledgement,
                 uint8_t flags, uint16_t window, const char *data, size_t length)
{
    uint8_t *out = net_payload();
    size_t header = flags & SYN ? OPTIONS + 4 : OPTIONS;
    memset(out, 0, header);
    put16(out + SOURCE, from);
    put16(out + TARGET, port);
    put32(out + SEQUENCE, sequence);
    put32(out + ACKNOWLEDGEMENT, acknowledgement);
    out[OFFSET] = (uint8_t)(header / 4 << 4);
    out[FLAGS] = flags;
    put16(out + WINDOW, window);
    if (flags & SYN) {
        out[OPTIONS] = OPTION_SEGMENT_SIZE;
        out[OPTIONS + 1] = 4;
        put16(out + OPTIONS + 2, OUR_SEGMENT);
    }
    memcpy(out + header, data, length);
    net_send_tcp(peer, header + length);
}

static uint16_t window_of(const struct connection *connection)
{
    /* Once the reply is on its way, what still comes is taken and thrown away. */
    if (connection->state <= ESTABLISHED)
        return (uint16_t)(REQUEST_BYTES - connection->exchange.request_length);
    return REQUEST_BYTES;
}

static void send_on(const struct connection *connection, uint32_t sequence, uint8_t flags, const char *data,
                    size_t length)
{
    send(&connection->peer, connection->port, our_port, sequence, connection->received, flags,
         window_of(connection), data, length);
}

static void send_acknowledgement(const struct connection *connection)
{
    send_on(connection, connection->next, ACK, NULL, 0);
}

static void send_reset(const struct peer *peer, const struct segment *in)
{
    if (in->flags & RST)
        return;
    uint32_t end = in->sequence + in->length + !!(in->flags & SYN) + !!(in->flags & FIN);
    if (in->flags & ACK)
        send(peer, in->source, in->target, in->acknowledgement, 0, RST, 0, NULL, 0);
    else
        send(peer, in->source, in->target, 0, end, RST | ACK, 0, NULL, 0);
}

/* The sequence number behind everything that we will ever send: the reply, then our FIN. */
static uint32_t end_of_reply(const struct connection *connection)
{
    return connection->first + connection->exchange.reply_length + 1;
}

/* Sends as much of the reply as the peer's window lets through; the FIN rides on the last segment. */
static bool send_reply(struct connection *connection)
{
    uint32_t end = end_of_reply(connection);
    bool sent = false;
    while (is_after(end, connection->next)) {
        uint32_t offset = connection->next - connection->first, remaining = end - 1 - connection->next;
        uint32_t on_the_way = connection->next - connection->acknowledged;
        uint32_t length = connection->window > on_the_way ? connection->window - on_the_way : 0;
        if (length > connection->segment)
            length = connection->segment;
        if (length > remaining)
            length = remaining;
        bool last = length == remaining;
        if (!length && !last)
            break;
        send_on(connection, connection->next, last ? ACK | PSH | FIN : ACK, connection->exchange.reply + offset,
                length);
        connection->next += length + last;
        sent = true;
    }
    if (is_after(connection->next, connection->highest))
        connection->highest = connection->next;
    return sent;
}

/* ---- connections ---- */

static void progressed(struct connection *connection)
{
    connection->since = machine_ticks();
    connection->attempts = 0;
}

static void release(struct connection *connection)
{
    bool was_replying = connection->state == REPLYING;
    connection->state = FREE;
    if (was_replying)
        http_done(&connection->exchange);
}

static struct connection *find(const struct peer *peer, uint16_t port)
{
    for (struct connection *each = connections; each < connections + CONNECTIONS; each++)
        if (each->state != FREE && each->port == port && each->peer.address == peer->address)
            return each;
    return NULL;
}

/* How readily a connection gives way to a new one; 0: not at all. */
static int expendability(const struct connection *connection, uint32_t age)
{
    switch (connection->state) {
    case FREE: return 4;
    case TIME_WAIT: return 3;
    case SYN_RECEIVED: return age >= FIRST_RETRANSMISSION ? 2 : 0;
    case ESTABLISHED: return age >= IDLE_BEFORE_EVICTION ? 1 : 0;
    default: return 0;
    }
}

/* A place for a new connection: a free one, else the oldest that is over, half open or silent, in this order.
 * NULL if all are busy: the SYN is dropped and will come again. */
static struct connection *find_place(void)
{
    struct connection *best = NULL;
    int best_expendability = 0;
    uint32_t best_age = 0;
    for (struct connection *each = connections; each < connections + CONNECTIONS; each++) {
        uint32_t age = machine_ticks() - each->since;
        int readiness = expendability(each, age);
        if (readiness > best_expendability || (readiness && readiness == best_expendability && age > best_age)) {
            best = each;
            best_expendability = readiness;
            best_age = age;
        }
    }
    return best;
}

static uint16_t segment_size(const struct segment *in)
{
    const uint8_t *at = in->options, *end = at + in->options_length;
    while (at < end && *at != OPTION_END) {
        if (*at == OPTION_NOTHING) {
            at++;
            continue;
        }
        if (end - at < 2 || at[1] < 2 || at[1] > end - at)
            break;
        if (at[0] == OPTION_SEGMENT_SIZE && at[1] == 4) {
            uint16_t size = get16(at + 2);
            return size < LEAST_SEGMENT ? LEAST_SEGMENT : size > OUR_SEGMENT ? OUR_SEGMENT : size;
        }
        at += at[1];
    }
    return DEFAULT_SEGMENT;
}

/* A number that moves with time and differs by peer, after RFC 6528 but without its cryptographic strength. */
static uint32_t initial_sequence(const struct peer *peer, uint16_t port)
{
    uint32_t mixed = (peer->address ^ (uint32_t)port << 16 ^ our_port) * 2654435761u;
    return machine_cycles() + (mixed ^ mixed >> 15);
}

static void accept(struct connection *connection, const struct peer *peer, const struct segment *in)
{
    if (!connection)
        return;
    if (connection->state == ESTABLISHED)
        send_on(connection, connection->next, RST | ACK, NULL, 0);
    struct exchange *exchange = &connection->exchange;
    uint32_t ours = initial_sequence(peer, in->source);
    exchange->request_length = exchange->reply_length = 0;
    exchange->afterwards = CARRY_ON;
    connection->state = SYN_RECEIVED;
    connection->peer = *peer;
    connection->port = in->source;
    connection->segment = segment_size(in);
    connection->received = in->sequence + 1;
    connection->first = connection->next = connection->highest = ours + 1;
    connection->acknowledged = ours;
    connection->window = in->window;
    connection->peer_finished = false;
    progressed(connection);
    send_on(connection, ours, SYN | ACK, NULL, 0);
}

/* ---- receiving ---- */

/* Takes what is new and in order; true if the peer should hear from us. */
static bool take_data(struct connection *connection, const struct segment *in)
{
    uint32_t ahead = connection->received - in->sequence;       /* bytes of the segment that we have already */
    size_t length = in->length;
    bool finished = in->flags & FIN;
    if (!length && !finished)
        return in->sequence != connection->received;            /* a keep-alive probe lies one byte back */
    if (connection->peer_finished || is_after(in->sequence, connection->received) || ahead > length)
        return true;                                            /* a gap, or a repeat: say what we wait for */
    const uint8_t *data = in->data + ahead;
    length -= ahead;
    if (connection->state == ESTABLISHED) {
        struct exchange *exchange = &connection->exchange;
        size_t room = REQUEST_BYTES - exchange->request_length;
        if (length > room) {
            length = room;
            finished = false;
        }
        memcpy(exchange->request + exchange->request_length, data, length);
        exchange->request_length += length;
    }
    connection->received += length + finished;
    connection->peer_finished = finished;
    if (length || finished)
        progressed(connection);
    return true;
}

static bool take_acknowledgement(struct connection *connection, const struct segment *in)
{
    uint32_t number = in->acknowledgement;
    if (connection->state == SYN_RECEIVED) {
        if (number != connection->first)
            return false;
        connection->state = ESTABLISHED;
    } else if (is_after(number, connection->highest) || is_after(connection->acknowledged, number)) {
        return true;                                            /* of what we never sent, or long past */
    }
    if (number != connection->acknowledged) {
        connection->acknowledged = number;
        progressed(connection);
    }
    if (is_after(number, connection->next))
        connection->next = number;
    connection->window = in->window;
    return true;
}

static void continue_connection(struct connection *connection, bool wants_answer)
{
    if (connection->state == ESTABLISHED && (http_answer(&connection->exchange) || connection->peer_finished)) {
        connection->state = REPLYING;
        progressed(connection);
    }
    if (connection->state == REPLYING) {
        if (send_reply(connection))
            wants_answer = false;
        if (connection->acknowledged == end_of_reply(connection)) {
            http_done(&connection->exchange);
            connection->exchange.afterwards = CARRY_ON;
            if (connection->peer_finished) {
                connection->state = TIME_WAIT;
                progressed(connection);
            }
        }
    }
    if (wants_answer)
        send_acknowledgement(connection);
}

static void receive_on(struct connection *connection, const struct peer *peer, const struct segment *in)
{
    if (in->flags & RST) {
        if (in->sequence - connection->received < REQUEST_BYTES)
            release(connection);
        return;
    }
    if (in->flags & SYN) {
        if (connection->state == TIME_WAIT)
            accept(connection, peer, in);
        else if (connection->state == SYN_RECEIVED && in->sequence + 1 == connection->received)
            send_on(connection, connection->first - 1, SYN | ACK, NULL, 0);
        else
            send_acknowledgement(connection);                   /* RFC 5961: only a peer that forgot us resets */
        return;
    }
    if (!(in->flags & ACK))
        return;
    if (!take_acknowledgement(connection, in)) {
        send_reset(peer, in);
        return;
    }
    continue_connection(connection, take_data(connection, in));
}

void tcp_receive(const struct peer *peer, const uint8_t *bytes, size_t length)
{
    size_t header = (size_t)(bytes[OFFSET] >> 4) * 4;
    if (header < OPTIONS || header > length)
        return;
    struct segment in = {
        .source = get16(bytes + SOURCE), .target = get16(bytes + TARGET),
        .sequence = get32(bytes + SEQUENCE), .acknowledgement = get32(bytes + ACKNOWLEDGEMENT),
        .window = get16(bytes + WINDOW), .flags = bytes[FLAGS],
        .options = bytes + OPTIONS, .options_length = header - OPTIONS,
        .data = bytes + header, .length = length - header,
    };
    struct connection *connection = in.target == our_port ? find(peer, in.source) : NULL;
    if (connection)
        receive_on(connection, peer, &in);
    else if (in.target == our_port && (in.flags & (SYN | ACK | RST)) == SYN)
        accept(find_place(), peer, &in);
    else
        send_reset(peer, &in);
}

/* ---- time ---- */

/* Nothing came back: go back to what is not acknowledged and send it again, waiting twice as long each time. */
static void retransmit(struct connection *connection)
{
    if (connection->attempts == ATTEMPTS) {
        send_on(connection, connection->next, RST | ACK, NULL, 0);
        release(connection);
        return;
    }
    connection->attempts++;
    connection->since = machine_ticks();
    if (connection->state == SYN_RECEIVED) {
        send_on(connection, connection->first - 1, SYN | ACK, NULL, 0);
        return;
    }
    connection->next = connection->acknowledged;
    if (!connection->window)
        connection->window = 1;                                 /* a closed window is probed with one byte */
    send_reply(connection);
}

static void tick(struct connection *connection)
{
    uint32_t waited = machine_ticks() - connection->since;
    bool replied = connection->state == REPLYING && connection->acknowledged == end_of_reply(connection);
    if (connection->state == TIME_WAIT) {
        if (waited >= TIME_WAIT_TICKS)
            release(connection);
    } else if (connection->state == ESTABLISHED || replied) {
        if (waited >= MOST_PATIENCE) {
            send_on(connection, connection->next, RST | ACK, NULL, 0);
            release(connection);
        }
    } else if (waited >= (uint32_t)FIRST_RETRANSMISSION << connection->attempts) {
        retransmit(connection);
    }
}

void tcp_tick(void)
{
    for (struct connection *each = connections; each < connections + CONNECTIONS; each++)
        if (each->state != FREE)
            tick(each);
}
