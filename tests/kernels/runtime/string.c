/* What the compiler expects of a C library, and little more. */
#include "kernel.h"

void *memset(void *to, int byte, size_t size)
{
    for ( u8 *at = to; size--; )
        *at++ = byte;
    return to;
}

void *memcpy(void *to, const void *from, size_t size)
{
    const u8 *source = from;

    for ( u8 *at = to; size--; )
        *at++ = *source++;
    return to;
}

int memcmp(const void *a, const void *b, size_t size)
{
    const u8 *left = a, *right = b;

    for ( ; size--; left++, right++ )
        if ( *left != *right )
            return *left - *right;
    return 0;
}

int strncmp(const char *a, const char *b, size_t size)
{
    for ( ; size--; a++, b++ )
        if ( *a != *b || !*a )
            return *a - *b;
    return 0;
}

int strcmp(const char *a, const char *b)
{
    return strncmp(a, b, -1ul);
}

size_t strlen(const char *text)
{
    size_t length = 0;

    while ( text[length] )
        length++;
    return length;
}
