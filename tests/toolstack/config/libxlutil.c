/*
 * Tells what Xen's libxlutil makes of the configuration on standard input, as JSON on standard output: the
 * values of the names that are its arguments. Complaints go to standard error. Bytes above 127 are told as
 * Python's surrogateescape would have them.
 */
#include <stdio.h>
#include <libxlutil.h>

static void print_string(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        unsigned char c = *text;

        if (c < ' ' || c > '~' || c == '"' || c == '\\')
            printf("\\u%04x", c > 127 ? 0xdc00 + c : c);
        else
            putchar(c);
    }
    putchar('"');
}

static void print_list(XLU_Config *config, XLU_ConfigList *list)
{
    XLU_ConfigValue *value;
    XLU_ConfigList *inner;
    char *text;

    putchar('[');
    for (int i = 0; (value = xlu_cfg_get_listitem2(list, i)); i++) {
        if (i)
            putchar(',');
        if (!xlu_cfg_value_get_string(config, value, &text, 1))
            print_string(text);
        else if (!xlu_cfg_value_get_list(config, value, &inner, 1))
            print_list(config, inner);
    }
    putchar(']');
}

int main(int argc, char **argv)
{
    static char text[1 << 20];
    XLU_Config *config = xlu_cfg_init(stderr, "f");
    const char *separator = "";

    if (xlu_cfg_readdata(config, text, fread(text, 1, sizeof(text), stdin)))
        return 1;
    putchar('{');
    for (int i = 1; i < argc; i++) {
        XLU_ConfigList *list;
        const char *value;
        int is_list = !xlu_cfg_get_list(config, argv[i], &list, 0, 1);

        if (!is_list && xlu_cfg_get_string(config, argv[i], &value, 1))
            continue;
        printf("%s\"%s\":", separator, argv[i]);
        separator = ",";
        if (is_list)
            print_list(config, list);
        else
            print_string(value);
    }
    puts("}");
    return 0;
}
