/* What this processor has. Built without AVX-512, so that asking is safe everywhere. */
#include "kernels.h"

int supported(void)
{
    __builtin_cpu_init();
    int base = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512vnni");
    if (!base)
        return 0;
    return 1 | (__builtin_cpu_supports("avx512bf16") ? 2 : 0) |
           (__builtin_cpu_supports("amx-tile") ? 4 : 0);
}

int digest(void)
{
    return DIGEST;
}
