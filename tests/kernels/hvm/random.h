/*
 * Numbers at random, always the same ones for a seed, and the numbers of a command line, which are hexadecimal.
 */
static u32 state;

static u32 any(void)
{
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state * 0x2c9277b5u;
}

static u32 below(u32 end)
{
    return (any() >> 3) % end;
}

static u32 number(const char **text)
{
    u32 value = 0;

    while ( **text == ' ' )
        ++*text;
    for ( ; **text && **text != ' '; ++*text )
        value = value * 16 + (**text <= '9' ? **text - '0' : **text - 'a' + 10);
    return value;
}
