/* For processors with AVX-512. */

#define LANES 16
#include "_cpu.c"
