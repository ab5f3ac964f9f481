/*
 * Network front ends, honest ones and others. There are three interfaces on one bridge, of which the first misbehaves.
 * Nobody may tell from the other two.
 */
#include "xenbus.h"

#include <xen/io/netif.h>

#define INTERFACES 3
#define TX_REF(vif) (REF + (vif) * 100)
#define RX_REF(vif) (TX_REF(vif) + 1)
#define CTRL_REF(vif) (TX_REF(vif) + 2)
#define DATA_REF(vif) (TX_REF(vif) + 10)
#define ROOM_REF(vif) (TX_REF(vif) + 40)
#define PAGES 20
#define ETH_HLEN 14

struct vif {
    struct xenbus_device device;
    netif_tx_front_ring_t tx;
    netif_rx_front_ring_t rx;
    unsigned int number, tx_port, rx_port;
};

static struct vif vifs[INTERFACES];
static u8 ring_pages[INTERFACES][3][PAGE_SIZE] PAGE_ALIGNED;
static u8 data[INTERFACES][PAGES][PAGE_SIZE] PAGE_ALIGNED;
static u8 room[INTERFACES][PAGES][PAGE_SIZE] PAGE_ALIGNED;

static void make_rings(struct vif *vif)
{
    netif_tx_sring_t *tx = (void *)ring_pages[vif->number][0];
    netif_rx_sring_t *rx = (void *)ring_pages[vif->number][1];

    memset(ring_pages[vif->number], 0, sizeof(ring_pages[vif->number]));
    XEN_FRONT_RING_INIT(&vif->tx, tx, PAGE_SIZE);
    XEN_FRONT_RING_INIT(&vif->rx, rx, PAGE_SIZE);
    grant_to(TX_REF(vif->number), tx, 0, 0);
    grant_to(RX_REF(vif->number), rx, 0, 0);
    for ( unsigned int i = 0; i < PAGES; i++ )
    {
        grant_to(DATA_REF(vif->number) + i, data[vif->number][i], 0, GTF_readonly);
        grant_to(ROOM_REF(vif->number) + i, room[vif->number][i], 0, 0);
    }
    vif->tx_port = new_port();
    vif->rx_port = new_port();
}

static void tell(struct vif *vif)
{
    front_write_number(&vif->device, "tx-ring-ref", TX_REF(vif->number));
    front_write_number(&vif->device, "rx-ring-ref", RX_REF(vif->number));
    front_write_number(&vif->device, "event-channel-tx", vif->tx_port);
    front_write_number(&vif->device, "event-channel-rx", vif->rx_port);
    front_write(&vif->device, "request-rx-copy", "1");
    front_write(&vif->device, "feature-rx-notify", "1");
    front_write(&vif->device, "feature-sg", "1");
}

static void connect(struct vif *vif)
{
    switch_state(&vif->device, XenbusStateConnected);
    await(&vif->device, XenbusStateConnected);
}

/* Offer all pages to be filled. */
static void offer(struct vif *vif)
{
    int notify;

    while ( vif->rx.req_prod_pvt - vif->rx.rsp_cons < PAGES )
    {
        unsigned int page = vif->rx.req_prod_pvt % PAGES;
        netif_rx_request_t *request = RING_GET_REQUEST(&vif->rx, vif->rx.req_prod_pvt++);

        request->id = page;
        request->gref = ROOM_REF(vif->number) + page;
    }
    RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(&vif->rx, notify);
    if ( notify )
        send_event(vif->rx_port);
}

static void open_vif(unsigned int number)
{
    struct vif *vif = &vifs[number];

    vif->number = number;
    find_device(&vif->device, "vif", number);
    await(&vif->device, XenbusStateInitWait);
    make_rings(vif);
    tell(vif);
    connect(vif);
    offer(vif);
}

static void open_vifs(void)
{
    prepare();
    for ( unsigned int i = 0; i < INTERFACES; i++ )
        open_vif(i);
}

/* Close the front end, and come back with fresh rings. */
static void reopen(struct vif *vif)
{
    switch_state(&vif->device, XenbusStateClosing);
    switch_state(&vif->device, XenbusStateClosed);
    await(&vif->device, XenbusStateClosed);
    close_port(vif->tx_port);
    close_port(vif->rx_port);
    CHECK(!(table[TX_REF(vif->number)].flags & (GTF_reading | GTF_writing)));
    CHECK(!(table[RX_REF(vif->number)].flags & (GTF_reading | GTF_writing)));
    switch_state(&vif->device, XenbusStateInitialising);
    await(&vif->device, XenbusStateInitWait);
    make_rings(vif);
    tell(vif);
    connect(vif);
    offer(vif);
}

static netif_tx_request_t *new_request(struct vif *vif, unsigned int page, unsigned int size, u16 flags)
{
    netif_tx_request_t *request = RING_GET_REQUEST(&vif->tx, vif->tx.req_prod_pvt);

    request->gref = DATA_REF(vif->number) + page;
    request->offset = 0;
    request->flags = flags;
    request->id = vif->tx.req_prod_pvt++;
    request->size = size;
    return request;
}

static void new_extra(struct vif *vif, u8 type, u8 flags, u16 gso_size, u8 gso_type)
{
    netif_extra_info_t *extra = (void *)RING_GET_REQUEST(&vif->tx, vif->tx.req_prod_pvt++);

    memset(extra, 0, sizeof(*extra));
    extra->type = type;
    extra->flags = flags;
    extra->u.gso.size = gso_size;
    extra->u.gso.type = gso_type;
}

static void push(struct vif *vif)
{
    int notify;

    RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(&vif->tx, notify);
    if ( notify )
        send_event(vif->tx_port);
}

/* The status of the next response. */
static int status(struct vif *vif)
{
    while ( vif->tx.rsp_cons == READ_ONCE(vif->tx.sring->rsp_prod) )
        yield();
    barrier();
    return RING_GET_RESPONSE(&vif->tx, vif->tx.rsp_cons++)->status;
}

/* A frame's addresses and type; -1 is everybody. */
static void make_header(u8 *frame, int from, int to)
{
    static const u8 vendor[] = {0x00, 0x16, 0x3e, 0x00, 0x00};

    memset(frame, 0xff, 6);
    if ( to >= 0 )
    {
        memcpy(frame, vendor, 5);
        frame[5] = to;
    }
    memcpy(frame + 6, vendor, 5);
    frame[11] = from;
    frame[12] = 0x88;
    frame[13] = 0xb5;
}

/* A frame in one request. */
static void send_frame(struct vif *vif, int to, u8 byte, unsigned int size)
{
    u8 *frame = data[vif->number][0];

    memset(frame, byte, size);
    make_header(frame, vif->number, to);
    new_request(vif, 0, size, 0);
    push(vif);
    CHECK_EQ(status(vif), NETIF_RSP_OKAY);
}

static netif_rx_response_t answer(struct vif *vif)
{
    while ( vif->rx.rsp_cons == READ_ONCE(vif->rx.sring->rsp_prod) )
        yield();
    barrier();
    return *RING_GET_RESPONSE(&vif->rx, vif->rx.rsp_cons++);
}

/* Receive a frame of so many bytes, each the given one. */
static void expect_frame(struct vif *vif, u8 byte, unsigned int size)
{
    unsigned int got = 0;
    netif_rx_response_t response;

    do {
        response = answer(vif);
        REQUIRE(response.status > 0);
        for ( int i = got ? 0 : ETH_HLEN; i < response.status; i++ )
            REQUIRE_EQ(room[vif->number][response.id][i], byte);
        got += response.status;
    } while ( response.flags & NETRXF_more_data );
    CHECK_EQ(got, size);
    offer(vif);
}

static bool nothing_came(struct vif *vif)
{
    return vif->rx.rsp_cons == READ_ONCE(vif->rx.sring->rsp_prod);
}

/* Two that have done nothing wrong reach each other. */
static void others_work(void)
{
    send_frame(&vifs[1], 2, 0x12, 1000);
    expect_frame(&vifs[2], 0x12, 1000);
    send_frame(&vifs[2], 1, 0x21, 60);
    expect_frame(&vifs[1], 0x21, 60);
}

/* All have been heard of. */
static void introduce(void)
{
    for ( unsigned int i = 0; i < INTERFACES; i++ )
    {
        send_frame(&vifs[i], -1, 0x77, 60);
        for ( unsigned int j = 0; j < INTERFACES; j++ )
            if ( j != i )
                expect_frame(&vifs[j], 0x77, 60);
    }
}

/* The first interface is closed, with its grants let go; the others do not notice. It can come back. */
static void check_closed(void)
{
    await(&vifs[0].device, XenbusStateClosing);
    others_work();
    reopen(&vifs[0]);
    introduce();
    others_work();
}

TEST(frames)
{
    open_vifs();
    introduce();
    for ( unsigned int i = 0; i < 300; i++ )
    {
        unsigned int size = 60 + i * 13;

        send_frame(&vifs[0], 1, i, size);
        expect_frame(&vifs[1], i, size);
        CHECK(!(table[DATA_REF(0)].flags & (GTF_reading | GTF_writing)));
    }
    CHECK(nothing_came(&vifs[2]));
}

/* A packet in many parts, each with an offset of its own, into pages that are filled. */
TEST(parts)
{
    struct vif *vif = &vifs[0];
    unsigned int size = ETH_HLEN + 18 * 1000;

    open_vifs();
    introduce();
    for ( unsigned int i = 0; i < 19; i++ )
    {
        memset(data[0][i], 0x99, PAGE_SIZE);
        memset(data[0][i] + 100 + i, 0x33, 1000);
    }
    make_header(data[0][0], 0, 1);
    new_request(vif, 0, size, NETTXF_more_data);
    for ( unsigned int i = 1; i < 19; i++ )
        new_request(vif, i, 1000, i < 18 ? NETTXF_more_data : 0)->offset = 100 + i;
    push(vif);
    for ( unsigned int i = 0; i < 19; i++ )
        CHECK_EQ(status(vif), NETIF_RSP_OKAY);
    expect_frame(&vifs[1], 0x33, size);
    others_work();
}

TEST(bogus_producer)
{
    open_vifs();
    introduce();
    vifs[0].tx.sring->req_prod += RING_SIZE(&vifs[0].tx) + 1;
    send_event(vifs[0].tx_port);
    check_closed();
    vifs[0].tx.sring->req_prod -= 1;
    send_event(vifs[0].tx_port);
    check_closed();
    /* The other ring's is looked at when there is a packet for it. */
    vifs[0].rx.sring->req_prod += 0x80000000;
    send_frame(&vifs[1], 0, 1, 60);
    check_closed();
}

TEST(very_many_slots)
{
    open_vifs();
    introduce();
    for ( unsigned int i = 0; i < 200; i++ )
        new_request(&vifs[0], 0, i ? 10 : 2000, NETTXF_more_data);
    push(&vifs[0]);
    check_closed();
}

TEST(cross_page)
{
    open_vifs();
    introduce();
    new_request(&vifs[0], 0, 100, 0)->offset = PAGE_SIZE - 99;
    push(&vifs[0]);
    check_closed();
}

TEST(bad_extras)
{
    static const struct {
        u8 type, flags;
        u16 gso_size;
        u8 gso_type;
    } bad[] = {
        {XEN_NETIF_EXTRA_TYPE_NONE, 0, 1, 1},
        {XEN_NETIF_EXTRA_TYPE_MAX, 0, 1, 1},
        {0xff, XEN_NETIF_EXTRA_FLAG_MORE, 1, 1},
        {XEN_NETIF_EXTRA_TYPE_GSO, 0, 0, XEN_NETIF_GSO_TYPE_TCPV4},
        {XEN_NETIF_EXTRA_TYPE_GSO, 0, 1000, 99},
        {XEN_NETIF_EXTRA_TYPE_GSO, XEN_NETIF_EXTRA_FLAG_MORE, 1000, XEN_NETIF_GSO_TYPE_TCPV4},
    };

    open_vifs();
    introduce();
    for ( unsigned int i = 0; i < ARRAY_SIZE(bad); i++ )
    {
        make_header(data[0][0], 0, 1);
        new_request(&vifs[0], 0, 100, NETTXF_extra_info);
        new_extra(&vifs[0], bad[i].type, bad[i].flags, bad[i].gso_size, bad[i].gso_type);
        push(&vifs[0]);
        check_closed();
    }
}

/* What is only wrong for itself: it is answered so, and the next packet is fine. */
TEST(refused)
{
    struct vif *vif = &vifs[0];

    open_vifs();
    introduce();
    new_request(vif, 0, ETH_HLEN - 1, 0);
    new_request(vif, 0, 100, NETTXF_more_data);
    new_request(vif, 0, 101, 0);
    new_request(vif, 0, 100, 0)->gref = 400;
    new_request(vif, 0, 100, 0)->gref = 0xffffffff;
    push(vif);
    for ( unsigned int i = 0; i < 5; i++ )
        CHECK_EQ(status(vif), NETIF_RSP_ERROR);
    send_frame(vif, 1, 5, 100);
    expect_frame(&vifs[1], 5, 100);
    CHECK(nothing_came(&vifs[2]));
    others_work();
}

/* Grants come and go while packets are on their way; whatever is answered, nothing stays in use. */
TEST(vanishing_grants)
{
    struct vif *vif = &vifs[0];
    unsigned int sent = 0, lost = 0;

    open_vifs();
    introduce();
    for ( unsigned int i = 0; i < 2000; i++ )
    {
        table[DATA_REF(0) + 1].flags = 0;
        make_header(data[0][0], 0, 1);
        new_request(vif, 0, 3000, NETTXF_more_data);
        new_request(vif, 1, 2000, 0);
        push(vif);
        for ( unsigned int j = 0; j < i % 97; j++ )
            barrier();
        grant_to(DATA_REF(0) + 1, data[0][1], 0, GTF_readonly);
        switch ( status(vif) )
        {
        case NETIF_RSP_OKAY:
            sent++;
            while ( answer(&vifs[1]).flags & NETRXF_more_data )
                continue;
            offer(&vifs[1]);
            break;
        case NETIF_RSP_ERROR:
            lost++;
            break;
        default:
            CHECK(false);
        }
        status(vif);
        CHECK(!(table[DATA_REF(0) + 1].flags & (GTF_reading | GTF_writing)));
    }
    CHECK_EQ(sent + lost, 2000);
    CHECK(nothing_came(&vifs[1]));
    others_work();
}

/* Pages that cannot be filled: who offers them is told, and gets what fits. */
TEST(room_that_is_none)
{
    struct vif *vif = &vifs[0];

    open_vifs();
    introduce();
    for ( unsigned int i = 0; i < PAGES; i++ )
        table[ROOM_REF(0) + i].flags = i % 2 ? 0 : GTF_permit_access | GTF_readonly;
    for ( unsigned int i = 0; i < 2 * PAGES; i++ )
    {
        send_frame(&vifs[1], 0, i, 500);
        CHECK_EQ(answer(vif).status, NETIF_RSP_ERROR);
        offer(vif);
    }
    for ( unsigned int i = 0; i < PAGES; i++ )
        grant_to(ROOM_REF(0) + i, room[0][i], 0, 0);
    send_frame(&vifs[1], 0, 9, 500);
    expect_frame(vif, 9, 500);
    others_work();
}

/* Who takes nothing does not hold up those that send to it. */
TEST(takes_nothing)
{
    open_vifs();
    introduce();
    for ( unsigned int i = 0; i < 3000; i++ )
    {
        send_frame(&vifs[1], 0, 1, 1500);
        if ( i < PAGES )
            CHECK_EQ(answer(&vifs[0]).status, 1500);
    }
    others_work();
    offer(&vifs[0]);
    for ( unsigned int i = 0; i < PAGES; i++ )
        CHECK_EQ(answer(&vifs[0]).status, 1500);
}

/* Nodes that lead nowhere. */
TEST(bad_nodes)
{
    static const char *const bad[][2] = {
        {"tx-ring-ref", "400"},    {"rx-ring-ref", "x"},         {"event-channel-tx", "4000"},
        {"event-channel-rx", ""},  {"request-rx-copy", "0"},     {"multi-queue-num-queues", "9"},
        {"feature-sg", "perhaps"}, {"ctrl-ring-ref", "4000000"},
    };
    struct vif *vif = &vifs[0];

    open_vifs();
    for ( unsigned int i = 0; i < ARRAY_SIZE(bad); i++ )
    {
        switch_state(&vif->device, XenbusStateClosing);
        switch_state(&vif->device, XenbusStateClosed);
        await(&vif->device, XenbusStateClosed);
        close_port(vif->tx_port);
        close_port(vif->rx_port);
        switch_state(&vif->device, XenbusStateInitialising);
        await(&vif->device, XenbusStateInitWait);
        make_rings(vif);
        tell(vif);
        front_write_number(&vif->device, "event-channel-ctrl", vif->tx_port);
        front_write(&vif->device, bad[i][0], bad[i][1]);
        switch_state(&vif->device, XenbusStateConnected);
        await(&vif->device, XenbusStateClosing);
        xs_remove(node(vif->device.frontend, bad[i][0]));
        others_work();
    }
    xs_remove(node(vif->device.frontend, "ctrl-ring-ref"));
    reopen(vif);
    introduce();
}

/* Groups that are asked for, and others. */
TEST(multicast)
{
    struct vif *vif = &vifs[0];
    netif_extra_info_t *extra;

    open_vifs();
    front_write(&vif->device, "request-multicast-control", "1");
    reopen(vif);
    introduce();
    for ( unsigned int round = 0; round < 3; round++ )
    {
        if ( round )
        {
            new_request(vif, 0, 0, NETTXF_extra_info);
            extra = (void *)RING_GET_REQUEST(&vif->tx, vif->tx.req_prod_pvt);
            new_extra(vif, round == 1 ? XEN_NETIF_EXTRA_TYPE_MCAST_ADD : XEN_NETIF_EXTRA_TYPE_MCAST_DEL, 0, 0, 0);
            memcpy(extra->u.mcast.addr, "\x01\x00\x5e\x00\x00\x05", 6);
            push(vif);
            CHECK_EQ(status(vif), NETIF_RSP_OKAY);
            CHECK_EQ(status(vif), NETIF_RSP_NULL);
        }
        memset(data[1][0], 0x44, 100);
        make_header(data[1][0], 1, -1);
        memcpy(data[1][0], "\x01\x00\x5e\x00\x00\x05", 6);
        new_request(&vifs[1], 0, 100, 0);
        push(&vifs[1]);
        CHECK_EQ(status(&vifs[1]), NETIF_RSP_OKAY);
        expect_frame(&vifs[2], 0x44, 100);
        if ( round == 1 )
            expect_frame(vif, 0x44, 100);
        CHECK(nothing_came(vif));
    }
}

/* The control ring: hashes are asked for, and come with packets. */
TEST(control)
{
    struct vif *vif = &vifs[0];
    struct xen_netif_ctrl_front_ring ring;
    struct xen_netif_ctrl_sring *shared = (void *)ring_pages[0][2];
    struct xen_netif_ctrl_request *request;
    struct xen_netif_ctrl_response *response;
    netif_rx_response_t packet;
    netif_extra_info_t *extra;
    unsigned int port = new_port();
    static const u32 requests[][3] = {
        {XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS, 0, XEN_NETIF_CTRL_STATUS_SUCCESS},
        {XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM, XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ, XEN_NETIF_CTRL_STATUS_SUCCESS},
        {XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS, XEN_NETIF_CTRL_HASH_TYPE_IPV4, XEN_NETIF_CTRL_STATUS_SUCCESS},
        {XEN_NETIF_CTRL_TYPE_SET_HASH_KEY, 400, XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER},
        {XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING, 1, XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED},
    };

    open_vifs();
    switch_state(&vif->device, XenbusStateClosing);
    switch_state(&vif->device, XenbusStateClosed);
    await(&vif->device, XenbusStateClosed);
    switch_state(&vif->device, XenbusStateInitialising);
    await(&vif->device, XenbusStateInitWait);
    make_rings(vif);
    XEN_FRONT_RING_INIT(&ring, shared, PAGE_SIZE);
    grant_to(CTRL_REF(0), shared, 0, 0);
    tell(vif);
    front_write_number(&vif->device, "ctrl-ring-ref", CTRL_REF(0));
    front_write_number(&vif->device, "event-channel-ctrl", port);
    connect(vif);
    offer(vif);
    for ( unsigned int i = 0; i < ARRAY_SIZE(requests); i++ )
    {
        request = RING_GET_REQUEST(&ring, ring.req_prod_pvt++);
        memset(request, 0, sizeof(*request));
        request->id = i;
        request->type = requests[i][0];
        request->data[0] = requests[i][1];
        request->data[1] = 40;
        RING_PUSH_REQUESTS(&ring);
        send_event(port);
        while ( ring.rsp_cons == READ_ONCE(shared->rsp_prod) )
            yield();
        response = RING_GET_RESPONSE(&ring, ring.rsp_cons++);
        CHECK_EQ(response->id, i);
        CHECK_EQ(response->type, requests[i][0]);
        CHECK_EQ(response->status, requests[i][2]);
    }
    send_frame(vif, -1, 0x55, 60);
    expect_frame(&vifs[1], 0x55, 60);
    expect_frame(&vifs[2], 0x55, 60);
    /* An IPv4 packet, as far as its header says. */
    memset(data[1][0], 0, 60);
    make_header(data[1][0], 1, 0);
    memcpy(data[1][0] + 12, "\x08\x00\x45\x00\x00\x2e", 6);
    new_request(&vifs[1], 0, 60, 0);
    push(&vifs[1]);
    CHECK_EQ(status(&vifs[1]), NETIF_RSP_OKAY);
    packet = answer(vif);
    CHECK_EQ(packet.status, 60);
    CHECK(packet.flags & NETRXF_extra_info);
    answer(vif);
    extra = (void *)RING_GET_RESPONSE(&vif->rx, vif->rx.rsp_cons - 1);
    CHECK_EQ(extra->type, XEN_NETIF_EXTRA_TYPE_HASH);
    CHECK_EQ(extra->flags, 0);
    CHECK_EQ(extra->u.hash.algorithm, XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ);
    CHECK_EQ(extra->u.hash.type, 0);
    /* And a producer that makes no sense. */
    shared->req_prod += 1000;
    send_event(port);
    await(&vif->device, XenbusStateClosing);
    others_work();
}

/* It ends with packets on their way. */
GUEST(ends_in_the_middle)
{
    open_vifs();
    introduce();
    for ( unsigned int i = 0; i < 100; i++ )
        new_request(&vifs[0], 0, 1000, 0);
    push(&vifs[0]);
}
