#include "http.h"
#include "cmdline.h"
#include "machine.h"

static uint32_t requests;

/* What a request asks for; the words lie in the request itself. */
struct question {
    const char *method, *path;
    size_t method_length, path_length;
};

static bool is_whole(const struct exchange *exchange)
{
    const char *end = exchange->request + exchange->request_length;
    for (const char *at = exchange->request; at < end; at++) {
        if (*at != '\n')
            continue;
        if (end - at > 1 && at[1] == '\n')
            return true;
        if (end - at > 2 && at[1] == '\r' && at[2] == '\n')
            return true;
    }
    return false;
}

/* "METHOD PATH[?QUERY] HTTP/..." */
static bool parse(const struct exchange *exchange, struct question *question)
{
    const char *at = exchange->request, *end = at + exchange->request_length;
    question->method = at;
    while (at < end && *at > ' ')
        at++;
    question->method_length = (size_t)(at - question->method);
    if (at == end || *at++ != ' ' || at == end || *at != '/')
        return false;
    question->path = at;
    while (at < end && *at > ' ' && *at != '?')
        at++;
    question->path_length = (size_t)(at - question->path);
    while (at < end && *at > ' ')
        at++;
    return end - at > 6 && text_begins(at, " HTTP/");
}

static const char *write_page(struct text *page)
{
    text_add(page, cmdline_environment("GREETING", "hello"));
    text_add(page, " from a unikernel: request ");
    text_number(page, requests);
    text_add(page, ", up ");
    uint32_t ticks = machine_ticks();
    text_hundredths(page, ticks / TICKS_PER_SECOND * 100 + ticks % TICKS_PER_SECOND * 100 / TICKS_PER_SECOND);
    text_add(page, " s\n");
    return "200 OK";
}

static const char *prepare_exit(struct exchange *exchange, const char *number, struct text *page)
{
    uint32_t code;
    bool good = text_read_number(&number, LAST_EXIT_CODE, &code) && *number <= ' ';
    if (!good || code == CODE_OF_CLEAN || code == CODE_OF_CRASH) {
        text_add(page, "an exit code is 0 to 63, but not 41 or 42\n");
        return "400 Bad Request";
    }
    exchange->afterwards = EXIT;
    exchange->exit_code = code;
    text_add(page, "bye\n");
    return "200 OK";
}

static const char *write_answer(struct exchange *exchange, const struct question *question, struct text *page)
{
    const char *path = question->path;
    size_t length = question->path_length;
    if (text_is(path, length, "/"))
        return write_page(page);
    if (text_is(path, length, "/healthz")) {
        text_add(page, "ok\n");
        return "200 OK";
    }
    if (text_begins(path, "/exit/"))
        return prepare_exit(exchange, path + 6, page);
    if (text_is(path, length, "/panic")) {
        exchange->afterwards = PANIC;
        text_add(page, "crashing\n");
        return "200 OK";
    }
    text_add(page, "not found; there are / /healthz /exit/N /panic\n");
    return "404 Not Found";
}

static void write_reply(struct exchange *exchange, const char *status, const struct text *page, bool with_page)
{
    struct text reply = {exchange->reply, REPLY_BYTES, 0};
    text_add(&reply, "HTTP/1.0 ");
    text_add(&reply, status);
    text_add(&reply, "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\nContent-Length: ");
    text_number(&reply, page->length);
    text_add(&reply, text_begins(status, "405") ? "\r\nAllow: GET, HEAD\r\n\r\n" : "\r\n\r\n");
    if (with_page) {
        memcpy(reply.start + reply.length, page->start, page->length);  /* header and page fit: 256 + 1024 */
        reply.length += page->length;
    }
    exchange->reply_length = reply.length;
}

bool http_answer(struct exchange *exchange)
{
    char bytes[1024];
    struct text page = {bytes, sizeof bytes, 0};
    struct question question;
    const char *status;
    bool is_head = false;
    bool is_too_long = exchange->request_length > LONGEST_REQUEST;
    if (!is_too_long && !is_whole(exchange))
        return false;
    if (is_too_long) {
        status = "431 Request Header Fields Too Large";
        text_add(&page, "a request has at most 2048 bytes\n");
    } else if (!parse(exchange, &question)) {
        status = "400 Bad Request";
        text_add(&page, "expected: GET /path HTTP/1.0\n");
    } else {
        is_head = text_is(question.method, question.method_length, "HEAD");
        if (is_head || text_is(question.method, question.method_length, "GET")) {
            requests++;
            status = write_answer(exchange, &question, &page);
        } else {
            status = "405 Method Not Allowed";
            text_add(&page, "expected: GET or HEAD\n");
        }
    }
    if (is_head)
        exchange->afterwards = CARRY_ON;
    write_reply(exchange, status, &page, !is_head);
    return true;
}

void http_done(const struct exchange *exchange)
{
    if (exchange->afterwards == EXIT)
        machine_exit(exchange->exit_code);
    if (exchange->afterwards == PANIC)
        __asm__ volatile("ud2");        /* a real exception, reported as any other would be */
}
