/*
 * cells.c
 *		Fuzz target: as session.c, with a daemon that listens to two cells.
 */
#define N_CELLS		2

#include "session.c"
