/*
 * What Xen's own domain builder makes of a kernel: libxenguest, up to where it would ask a hypervisor.
 *
 * Reads "pv PATH" or "hvm PATH" lines, and answers each with the builder's log and a line "done".
 */
#include <stdio.h>
#include <string.h>

#include <xenctrl.h>
#include <xenguest.h>
#include <xentoollog.h>

int main(void)
{
    char line[4096], kind[8], path[4000];

    setvbuf(stdout, NULL, _IOLBF, 0);
    while ( fgets(line, sizeof(line), stdin) && sscanf(line, "%7s %3999[^\n]", kind, path) == 2 )
    {
        xentoollog_logger *log = (xentoollog_logger *)xtl_createlogger_stdiostream(stdout, XTL_DETAIL, 0);
        xc_interface *xch = xc_interface_open(log, log, XC_OPENFLAG_DUMMY);
        struct xc_dom_image *dom = xc_dom_allocate(xch, "", NULL);

        dom->container_type = strcmp(kind, "pv") ? XC_DOM_HVM_CONTAINER : XC_DOM_PV_CONTAINER;
        if ( !xc_dom_kernel_file(dom, path) )
            xc_dom_parse_image(dom);
        xc_dom_release(dom);
        xc_interface_close(xch);
        xtl_logger_destroy(log);
        puts("done");
    }
    return 0;
}
