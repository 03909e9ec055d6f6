/* The command line, read as Unikraft reads it:
 *
 *     NAME netdev.ip=10.0.2.15/24:10.0.2.2 env.vars=[ "GREETING=good day" "K=V" ] -- 8080
 *
 * Words are separated by spaces; quotes keep spaces, and a backslash keeps the next character inside of double
 * quotes. Parameters that are not ours are passed over, lists included; what follows `--` are the arguments.
 */
#pragma once
#include "text.h"

/* Reads the line; false if it is too long, after saying so on the console. */
bool cmdline_read(const char *line);

uint32_t cmdline_address(void);                         /* netdev.ip, by default 10.0.2.15 */
const char *cmdline_environment(const char *name, const char *otherwise);
const char *cmdline_argument(size_t index);             /* from 0; NULL where there are fewer */
