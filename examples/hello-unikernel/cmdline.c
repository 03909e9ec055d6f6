#include "cmdline.h"
#include "console.h"

enum { LONGEST = 16384, VARIABLES = 128, ARGUMENTS = 16, QEMU_GUEST = 0x0A00020F };

enum list { NO_LIST, VARIABLES_LIST, OTHER_LIST };

/* The line's words one after the other, quotes taken off. Twice the room: `a=[]` is two words, each with a zero. */
static char words[2 * LONGEST];
static const char *variables[VARIABLES], *arguments[ARGUMENTS];
static size_t variable_count, argument_count;
static uint32_t address = QEMU_GUEST;

/* Takes the next word off `*line` into `words`; NULL at the end. Outside of the arguments, `[` ends a word that
 * it follows directly on `=`, and an unquoted `]` inside of a list is a word of its own. */
static char *next_word(const char **line, size_t *used, bool brackets, bool in_list)
{
    const char *at = *line;
    while (*at == ' ')
        at++;
    if (!*at)
        return NULL;
    const char *start = at;
    char *word = words + *used, *end = word;
    char quote = 0;
    for (; *at && (quote || *at != ' '); at++) {
        if (quote == '"' && *at == '\\' && at[1])
            *end++ = *++at;
        else if (quote ? *at == quote : *at == '"' || *at == '\'')
            quote = quote ? 0 : *at;
        else if (brackets && in_list && !quote && *at == ']') {
            if (at == start)
                *end++ = *at++;
            break;
        } else {
            *end++ = *at;
            if (brackets && !quote && *at == '[' && end - word > 1 && end[-2] == '=') {
                at++;
                break;
            }
        }
    }
    *end = 0;
    *used += (size_t)(end - word) + 1;
    *line = at;
    return word;
}

static void read_address(const char *words_of_it)
{
    uint32_t parsed = 0, part;
    for (int index = 0; index < 4; index++) {
        if (!text_read_number(&words_of_it, 255, &part) || (index < 3 && *words_of_it++ != '.')) {
            console_write("hello: netdev.ip is no address (expected A.B.C.D/N:GATEWAY); using 10.0.2.15\n");
            return;
        }
        parsed = parsed << 8 | part;
    }
    address = parsed;
}

static void add_variable(const char *variable)
{
    if (variable_count < VARIABLES)
        variables[variable_count++] = variable;
    else
        console_write("hello: more than 128 environment variables; the rest is ignored\n");
}

static enum list read_parameter(const char *word)
{
    size_t length = text_length(word);
    bool opens = length > 1 && word[length - 1] == '[' && word[length - 2] == '=';
    if (text_begins(word, "env.vars=")) {
        if (opens)
            return VARIABLES_LIST;
        add_variable(word + 9);
    } else if (text_begins(word, "netdev.ip=") && !opens) {
        read_address(word + 10);
    }
    return opens ? OTHER_LIST : NO_LIST;
}

bool cmdline_read(const char *line)
{
    if (text_length(line) > LONGEST) {
        console_write("hello: the command line is longer than 16384 bytes\n");
        return false;
    }
    enum list list = NO_LIST;
    bool in_arguments = false;
    size_t used = 0;
    for (;;) {
        while (*line == ' ')
            line++;
        bool quoted = *line == '"' || *line == '\'';
        const char *word = next_word(&line, &used, !in_arguments, list != NO_LIST);
        if (!word)
            return true;
        if (in_arguments) {
            if (argument_count < ARGUMENTS)
                arguments[argument_count++] = word;
        } else if (list != NO_LIST) {
            if (!quoted && text_is(word, text_length(word), "]"))
                list = NO_LIST;
            else if (list == VARIABLES_LIST)
                add_variable(word);
        } else if (!quoted && text_is(word, text_length(word), "--")) {
            in_arguments = true;
        } else {
            list = read_parameter(word);
        }
    }
}

uint32_t cmdline_address(void)
{
    return address;
}

const char *cmdline_environment(const char *name, const char *otherwise)
{
    size_t length = text_length(name);
    for (size_t index = 0; index < variable_count; index++)
        if (text_begins(variables[index], name) && variables[index][length] == '=')
            return variables[index] + length + 1;
    return otherwise;
}

const char *cmdline_argument(size_t index)
{
    return index < argument_count ? arguments[index] : NULL;
}
