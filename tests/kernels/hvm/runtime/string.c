/* What PV kernels have; their kernel.h is not read after ours. */
#include "kernel.h"

#include "../../runtime/string.c"
