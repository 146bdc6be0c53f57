/* For 64-bit ARM processors, all of which have NEON. */

#define LANES 4
#include "_cpu.c"
