/* For processors with AVX2. */

#define LANES 8
#include "_cpu.c"
