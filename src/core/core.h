/*
 * core.h
 *		What every file of src/core includes first.
 *
 * Files below src/core are plain C: no server header, no server memory, no exceptions, so that
 * the server's library, the programs and the tests share one copy of each decision.  Nothing here
 * allocates unless its header says so, and nothing keeps state of its own.
 */
#ifndef IOT_CORE_H
#define IOT_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* iot.so hides its symbols where the server builds modules that way; its workers need these. */
#if defined(__GNUC__)
#define IOT_API __attribute__((visibility("default")))
#else
#define IOT_API
#endif

#endif							/* IOT_CORE_H */
