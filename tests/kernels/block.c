/*
 * Block front ends, honest ones and others. There are three disks, xvda of 1 MiB, xvdb, which is read-only, and xvdc.
 * Nobody may tell from the last one what is done with the others.
 */
#include "xenbus.h"

#include <xen/io/blkif.h>
#include <xen/io/protocols.h>

#define XVDA 51712
#define XVDB 51728
#define XVDC 51744
#define SECTORS 2048
#define MAX_PAGES 8
#define DATA_REF 100

struct disk {
    struct xenbus_device device;
    blkif_front_ring_t ring;
    unsigned int port, first_ref;
    u64 next_id;
};

static struct disk disks[3];
static u8 ring_pages[3][MAX_PAGES][PAGE_SIZE] PAGE_ALIGNED;
static u8 data[16][PAGE_SIZE] PAGE_ALIGNED;

static unsigned int index_of(struct disk *disk)
{
    return disk - disks;
}

/* Give a disk a fresh ring of so many pages, and a port. */
static void make_ring(struct disk *disk, unsigned int pages)
{
    unsigned int number = index_of(disk);
    blkif_sring_t *shared = (void *)ring_pages[number];

    memset(shared, 0, pages * PAGE_SIZE);
    XEN_FRONT_RING_INIT(&disk->ring, shared, pages * PAGE_SIZE);
    disk->first_ref = REF + number * MAX_PAGES;
    for ( unsigned int i = 0; i < pages; i++ )
        grant_to(disk->first_ref + i, ring_pages[number][i], 0, 0);
    disk->port = new_port();
}

static void connect(struct disk *disk)
{
    switch_state(&disk->device, XenbusStateInitialised);
    await(&disk->device, XenbusStateConnected);
    switch_state(&disk->device, XenbusStateConnected);
}

static void tell_ring(struct disk *disk)
{
    front_write_number(&disk->device, "ring-ref", disk->first_ref);
    front_write_number(&disk->device, "event-channel", disk->port);
}

static void open_disk(struct disk *disk, unsigned int devid)
{
    find_device(&disk->device, "vbd", devid);
    await(&disk->device, XenbusStateInitWait);
    make_ring(disk, 1);
    front_write(&disk->device, "protocol", XEN_IO_PROTO_ABI_X86_64);
    tell_ring(disk);
    connect(disk);
}

/* Close the front end, and come back with a fresh ring. */
static void reopen(struct disk *disk)
{
    switch_state(&disk->device, XenbusStateClosing);
    switch_state(&disk->device, XenbusStateClosed);
    await(&disk->device, XenbusStateClosed);
    close_port(disk->port);
    switch_state(&disk->device, XenbusStateInitialising);
    await(&disk->device, XenbusStateInitWait);
    make_ring(disk, 1);
    tell_ring(disk);
    connect(disk);
}

static void prepare_disks(void)
{
    prepare();
    open_disk(&disks[0], XVDA);
    for ( unsigned int i = 0; i < ARRAY_SIZE(data); i++ )
        grant_to(DATA_REF + i, data[i], 0, 0);
}

static blkif_request_t *new_request(struct disk *disk, u8 operation)
{
    blkif_request_t *request = RING_GET_REQUEST(&disk->ring, disk->ring.req_prod_pvt);

    disk->ring.req_prod_pvt++;
    memset(request, 0, sizeof(*request));
    request->operation = operation;
    request->id = 0x1122334455660000 + disk->next_id++;
    return request;
}

static void push(struct disk *disk)
{
    int notify;

    RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(&disk->ring, notify);
    if ( notify )
        send_event(disk->port);
}

/* Wait for the next response. */
static blkif_response_t answer(struct disk *disk)
{
    blkif_response_t response;

    while ( disk->ring.rsp_cons == READ_ONCE(disk->ring.sring->rsp_prod) )
        yield();
    barrier();
    response = *RING_GET_RESPONSE(&disk->ring, disk->ring.rsp_cons);
    disk->ring.rsp_cons++;
    return response;
}

static int status_of_request(struct disk *disk, blkif_request_t *request)
{
    blkif_request_t copy = *request;
    u8 operation = copy.operation == BLKIF_OP_INDIRECT ? ((blkif_request_indirect_t *)&copy)->indirect_op
                                                       : copy.operation;
    blkif_response_t response;

    push(disk);
    response = answer(disk);
    CHECK_EQ(response.id, copy.id);
    CHECK_EQ(response.operation, operation);
    return response.status;
}

static void segment(blkif_request_t *request, unsigned int ref, u8 first, u8 last)
{
    struct blkif_request_segment *new = &request->seg[request->nr_segments++];

    *new = (struct blkif_request_segment){.gref = ref, .first_sect = first, .last_sect = last};
}

/* Read or write the first sectors of a data page. */
static int transfer(struct disk *disk, u8 operation, u64 sector, unsigned int page, unsigned int count)
{
    blkif_request_t *request = new_request(disk, operation);

    request->sector_number = sector;
    segment(request, DATA_REF + page, 0, count - 1);
    return status_of_request(disk, request);
}

static bool is_filled(const u8 *page, u8 byte, unsigned int size)
{
    for ( unsigned int i = 0; i < size; i++ )
        if ( page[i] != byte )
            return false;
    return true;
}

static void check_works(struct disk *disk)
{
    memset(data[14], 0xa5, PAGE_SIZE);
    memset(data[15], 0, PAGE_SIZE);
    CHECK_EQ(transfer(disk, BLKIF_OP_WRITE, 2040, 14, 8), BLKIF_RSP_OKAY);
    CHECK_EQ(transfer(disk, BLKIF_OP_READ, 2040, 15, 8), BLKIF_RSP_OKAY);
    CHECK(is_filled(data[15], 0xa5, PAGE_SIZE));
}

TEST(reads_and_writes)
{
    blkif_request_t *request;

    prepare_disks();
    CHECK_EQ(back_number(&disks[0].device, "sectors"), SECTORS);
    CHECK_EQ(back_number(&disks[0].device, "sector-size"), 512);
    CHECK_EQ(back_number(&disks[0].device, "info"), 0);
    for ( unsigned int i = 0; i < 11; i++ )
        memset(data[i], i + 1, PAGE_SIZE);
    request = new_request(&disks[0], BLKIF_OP_WRITE);
    for ( unsigned int i = 0; i < 11; i++ )
        segment(request, DATA_REF + i, 0, 7);
    CHECK_EQ(status_of_request(&disks[0], request), BLKIF_RSP_OKAY);
    /* Parts of pages: sectors 3 to 5 of the disk's fifth page, and the rest of the page is left alone. */
    memset(data[11], 0xee, PAGE_SIZE);
    request = new_request(&disks[0], BLKIF_OP_READ);
    request->sector_number = 4 * 8 + 6;
    segment(request, DATA_REF + 11, 3, 5);
    CHECK_EQ(status_of_request(&disks[0], request), BLKIF_RSP_OKAY);
    CHECK(is_filled(data[11], 0xee, 3 * 512));
    CHECK(is_filled(data[11] + 3 * 512, 5, 2 * 512));
    CHECK(is_filled(data[11] + 5 * 512, 6, 512));
    CHECK(is_filled(data[11] + 6 * 512, 0xee, 2 * 512));
    /* What a full ring asks for comes back, in any order. */
    for ( unsigned int i = 0; i < RING_SIZE(&disks[0].ring); i++ )
    {
        request = new_request(&disks[0], i % 2 ? BLKIF_OP_READ : BLKIF_OP_WRITE);
        request->id = i;
        request->sector_number = 100 + i;
        segment(request, DATA_REF + i % 11, 0, 0);
    }
    push(&disks[0]);
    u64 seen = 0;
    for ( unsigned int i = 0; i < RING_SIZE(&disks[0].ring); i++ )
    {
        blkif_response_t response = answer(&disks[0]);

        CHECK_EQ(response.status, BLKIF_RSP_OKAY);
        seen |= 1ul << response.id;
    }
    CHECK_EQ(seen, (1ul << RING_SIZE(&disks[0].ring)) - 1);
}

TEST(flush_barrier_discard)
{
    blkif_request_discard_t *discard;
    blkif_request_t *request;

    prepare_disks();
    CHECK_EQ(back_number(&disks[0].device, "feature-flush-cache"), 1);
    CHECK_EQ(back_number(&disks[0].device, "feature-barrier"), 1);
    memset(data[0], 0x11, PAGE_SIZE);
    CHECK_EQ(transfer(&disks[0], BLKIF_OP_WRITE_BARRIER, 0, 0, 8), BLKIF_RSP_OKAY);
    CHECK_EQ(transfer(&disks[0], BLKIF_OP_FLUSH_DISKCACHE, 8, 0, 8), BLKIF_RSP_OKAY);
    CHECK_EQ(status_of_request(&disks[0], new_request(&disks[0], BLKIF_OP_FLUSH_DISKCACHE)), BLKIF_RSP_OKAY);
    CHECK_EQ(status_of_request(&disks[0], new_request(&disks[0], BLKIF_OP_WRITE_BARRIER)), BLKIF_RSP_OKAY);
    CHECK_EQ(transfer(&disks[0], BLKIF_OP_READ, 8, 1, 8), BLKIF_RSP_OKAY);
    CHECK(is_filled(data[1], 0x11, PAGE_SIZE));
    /* Among many other requests, of which those behind a barrier write where it does. */
    for ( unsigned int i = 0; i < 30; i++ )
    {
        memset(data[i % 10], 0x20 + i % 10, PAGE_SIZE);
        request = new_request(&disks[0], i % 3 ? BLKIF_OP_WRITE : BLKIF_OP_WRITE_BARRIER);
        request->sector_number = i / 3 * 8;
        segment(request, DATA_REF + i / 3, 0, 7);
    }
    push(&disks[0]);
    for ( unsigned int i = 0; i < 30; i++ )
        CHECK_EQ(answer(&disks[0]).status, BLKIF_RSP_OKAY);
    for ( unsigned int i = 0; i < 10; i++ )
    {
        CHECK_EQ(transfer(&disks[0], BLKIF_OP_READ, i * 8, 11, 8), BLKIF_RSP_OKAY);
        CHECK(is_filled(data[11], 0x20 + i, PAGE_SIZE));
    }
    CHECK_EQ(back_number(&disks[0].device, "feature-discard"), 1);
    discard = (void *)new_request(&disks[0], BLKIF_OP_DISCARD);
    discard->sector_number = 8;
    discard->nr_sectors = 8;
    CHECK_EQ(status_of_request(&disks[0], (void *)discard), BLKIF_RSP_OKAY);
    CHECK_EQ(transfer(&disks[0], BLKIF_OP_READ, 8, 11, 8), BLKIF_RSP_OKAY);
    CHECK(is_filled(data[11], 0, PAGE_SIZE));
    discard = (void *)new_request(&disks[0], BLKIF_OP_DISCARD);
    discard->sector_number = 2047;
    discard->nr_sectors = ~0ul;
    CHECK_EQ(status_of_request(&disks[0], (void *)discard), BLKIF_RSP_ERROR);
    discard = (void *)new_request(&disks[0], BLKIF_OP_DISCARD);
    discard->nr_sectors = 8;
    discard->flag = BLKIF_DISCARD_SECURE;
    CHECK_EQ(status_of_request(&disks[0], (void *)discard), BLKIF_RSP_EOPNOTSUPP);
    check_works(&disks[0]);
}

TEST(indirect_segments)
{
    struct blkif_request_segment *segments = (void *)data[12];
    blkif_request_indirect_t *request;

    prepare_disks();
    CHECK_EQ(back_number(&disks[0].device, "feature-max-indirect-segments"), 256);
    for ( unsigned int i = 0; i < 10; i++ )
        memset(data[i], 0x30 + i, PAGE_SIZE);
    for ( unsigned int i = 0; i < 80; i++ )
        segments[i] = (struct blkif_request_segment){.gref = DATA_REF + i / 8, .first_sect = i % 8, .last_sect = i % 8};
    request = (void *)new_request(&disks[0], BLKIF_OP_INDIRECT);
    request->indirect_op = BLKIF_OP_WRITE;
    request->nr_segments = 80;
    request->sector_number = 16;
    request->indirect_grefs[0] = DATA_REF + 12;
    CHECK_EQ(status_of_request(&disks[0], (void *)request), BLKIF_RSP_OKAY);
    for ( unsigned int i = 0; i < 10; i++ )
    {
        CHECK_EQ(transfer(&disks[0], BLKIF_OP_READ, 16 + i * 8, 11, 8), BLKIF_RSP_OKAY);
        CHECK(is_filled(data[11], 0x30 + i, PAGE_SIZE));
    }
    /* One bad segment of many, an indirect page that is not there, too many, none, and what cannot be indirect. */
    for ( unsigned int wrong = 0; wrong < 6; wrong++ )
    {
        segments[79].last_sect = wrong == 0 ? 8 : 7;
        request = (void *)new_request(&disks[0], BLKIF_OP_INDIRECT);
        request->indirect_op = wrong == 1 ? BLKIF_OP_FLUSH_DISKCACHE : wrong == 2 ? BLKIF_OP_INDIRECT : BLKIF_OP_READ;
        request->nr_segments = wrong == 3 ? 257 : wrong == 4 ? 0 : 80;
        request->indirect_grefs[0] = wrong == 5 ? 3000 : DATA_REF + 12;
        CHECK_EQ(status_of_request(&disks[0], (void *)request), BLKIF_RSP_ERROR);
    }
    check_works(&disks[0]);
}

/* Each is answered with an error, and nothing else happens. */
TEST(bad_requests)
{
    static const struct {
        u8 operation, segments, first, last;
        u64 sector;
        u32 ref;
    } bad[] = {
        {BLKIF_OP_READ, 0, 0, 7, 0, DATA_REF},
        {BLKIF_OP_WRITE, 0, 0, 7, 0, DATA_REF},
        {BLKIF_OP_READ, 12, 0, 7, 0, DATA_REF},
        {BLKIF_OP_READ, 255, 0, 7, 0, DATA_REF},
        {BLKIF_OP_READ, 1, 5, 4, 0, DATA_REF},
        {BLKIF_OP_READ, 1, 0, 8, 0, DATA_REF},
        {BLKIF_OP_WRITE, 1, 255, 255, 0, DATA_REF},
        {BLKIF_OP_READ, 1, 0, 7, SECTORS - 7, DATA_REF},
        {BLKIF_OP_WRITE, 1, 0, 0, SECTORS, DATA_REF},
        {BLKIF_OP_WRITE, 1, 0, 0, 1ul << 55, DATA_REF},
        {BLKIF_OP_READ, 1, 0, 7, ~0ul, DATA_REF},
        {BLKIF_OP_READ, 2, 0, 7, ~0ul - 7, DATA_REF},
        {BLKIF_OP_READ, 1, 0, 7, 0, 400},         /* a grant that is none */
        {BLKIF_OP_WRITE, 1, 0, 7, 0, 0xffffffff}, /* one beyond the table */
        {BLKIF_OP_READ, 1, 0, 7, 0, REF + 60},    /* a read into a page that may be read only */
        {BLKIF_OP_READ, 1, 0, 7, 0, REF + 61},    /* a page that is granted to somebody else */
        {BLKIF_OP_READ, 1, 0, 7, 0, REF + 62},    /* a page that is not the guest's */
    };

    prepare_disks();
    grant_to(REF + 60, data[0], 0, GTF_readonly);
    grant_to(REF + 61, data[0], 7, 0);
    grant_to(REF + 62, data[0], 0, 0);
    table[REF + 62].frame = 1;
    memset(data[0], 0x77, PAGE_SIZE);
    CHECK_EQ(transfer(&disks[0], BLKIF_OP_WRITE, 0, 0, 8), BLKIF_RSP_OKAY);
    for ( unsigned int i = 0; i < ARRAY_SIZE(bad); i++ )
    {
        blkif_request_t *request = new_request(&disks[0], bad[i].operation);
        int status;

        request->sector_number = bad[i].sector;
        request->nr_segments = bad[i].segments;
        for ( unsigned int j = 0; j < BLKIF_MAX_SEGMENTS_PER_REQUEST; j++ )
            request->seg[j] = (struct blkif_request_segment){bad[i].ref, bad[i].first, bad[i].last};
        status = status_of_request(&disks[0], request);
        if ( !CHECK_EQ(status, BLKIF_RSP_ERROR) )
            printf("bad request %d\n", i);
    }
    for ( unsigned int operation = 0; operation < 256; operation++ )
    {
        if ( operation == BLKIF_OP_RESERVED_1 || operation > BLKIF_OP_INDIRECT )
            CHECK_EQ(status_of_request(&disks[0], new_request(&disks[0], operation)), BLKIF_RSP_EOPNOTSUPP);
    }
    CHECK(is_filled(data[0], 0x77, PAGE_SIZE));
    CHECK_EQ(transfer(&disks[0], BLKIF_OP_READ, 0, 1, 8), BLKIF_RSP_OKAY);
    CHECK(is_filled(data[1], 0x77, PAGE_SIZE));
    check_works(&disks[0]);
}

TEST(read_only_disk)
{
    prepare_disks();
    open_disk(&disks[1], XVDB);
    CHECK_EQ(back_number(&disks[1].device, "info"), VDISK_READONLY);
    CHECK_EQ(back_number(&disks[1].device, "feature-discard"), 0);
    CHECK_EQ(transfer(&disks[1], BLKIF_OP_READ, 0, 0, 8), BLKIF_RSP_OKAY);
    CHECK(is_filled(data[0], 'r', PAGE_SIZE));
    memset(data[0], 'w', PAGE_SIZE);
    CHECK_EQ(transfer(&disks[1], BLKIF_OP_WRITE, 0, 0, 8), BLKIF_RSP_ERROR);
    CHECK_EQ(transfer(&disks[1], BLKIF_OP_WRITE_BARRIER, 0, 0, 8), BLKIF_RSP_ERROR);
    CHECK_EQ(transfer(&disks[1], BLKIF_OP_FLUSH_DISKCACHE, 0, 0, 8), BLKIF_RSP_ERROR);
    CHECK_EQ(status_of_request(&disks[1], new_request(&disks[1], BLKIF_OP_DISCARD)), BLKIF_RSP_EOPNOTSUPP);
    CHECK_EQ(transfer(&disks[1], BLKIF_OP_READ, 0, 1, 8), BLKIF_RSP_OKAY);
    CHECK(is_filled(data[1], 'r', PAGE_SIZE));
}

/* A ring that makes no sense: the device is closed, another one works on, and the front end may come back. */
static void check_closed(void)
{
    await(&disks[0].device, XenbusStateClosing);
    check_works(&disks[2]);
    reopen(&disks[0]);
    check_works(&disks[0]);
    check_works(&disks[2]);
}

TEST(bogus_producer)
{
    prepare_disks();
    open_disk(&disks[2], XVDC);
    check_works(&disks[0]);
    disks[0].ring.sring->req_prod += RING_SIZE(&disks[0].ring) + 1;
    send_event(disks[0].port);
    check_closed();
    disks[0].ring.sring->req_prod -= 1;
    send_event(disks[0].port);
    check_closed();
    disks[0].ring.sring->req_prod += 0x80000000;
    send_event(disks[0].port);
    check_closed();
}

/* Indices that are the back end's to write. What it keeps for itself counts. */
TEST(other_indices)
{
    prepare_disks();
    check_works(&disks[0]);
    disks[0].ring.sring->req_event = 0xffffffff;
    disks[0].ring.sring->rsp_event = 0xdeadbeef;
    send_event(disks[0].port);
    disks[0].ring.sring->rsp_prod += 5;
    disks[0].ring.sring->rsp_event = disks[0].ring.rsp_cons + 1;
    new_request(&disks[0], BLKIF_OP_READ);
    push(&disks[0]);
    send_event(disks[0].port);
    while ( READ_ONCE(disks[0].ring.sring->rsp_prod) != disks[0].ring.rsp_cons + 1 )
        yield();
    answer(&disks[0]);
    check_works(&disks[0]);
}

/* Nodes that lead nowhere. */
TEST(bad_nodes)
{
    static const char *const bad[][2] = {
        {"ring-ref", "banana"},
        {"ring-ref", ""},
        {"ring-ref", "-1"},
        {"ring-ref", "4294967296"},
        {"ring-ref", "99999999999999999999999999999999999999999"},
        {"ring-ref", "400"},
        {"ring-ref", "0x20"},
        {"event-channel", "0"},
        {"event-channel", "1000"},
        {"event-channel", "131072"},
        {"event-channel", "2147483648"},
        {"event-channel", " 5"},
        {"protocol", "sparc-abi"},
        {"ring-page-order", "5"},
        {"ring-page-order", "1"},
        {"ring-page-order", "4294967295"},
        {"num-ring-pages", "3"},
        {"num-ring-pages", "0"},
        {"multi-queue-num-queues", "0"},
        {"multi-queue-num-queues", "5"},
        {"multi-queue-num-queues", "2"},
        {"feature-persistent", "maybe"},
    };

    prepare_disks();
    open_disk(&disks[2], XVDC);
    for ( unsigned int i = 0; i < ARRAY_SIZE(bad); i++ )
    {
        switch_state(&disks[0].device, XenbusStateClosed);
        await(&disks[0].device, XenbusStateClosed);
        switch_state(&disks[0].device, XenbusStateInitialising);
        await(&disks[0].device, XenbusStateInitWait);
        front_write(&disks[0].device, bad[i][0], bad[i][1]);
        switch_state(&disks[0].device, XenbusStateInitialised);
        await(&disks[0].device, XenbusStateClosing);
        REQUIRE(xs_remove(node(disks[0].device.frontend, bad[i][0])));
        tell_ring(&disks[0]);
        front_write(&disks[0].device, "protocol", XEN_IO_PROTO_ABI_X86_64);
        check_works(&disks[2]);
    }
    reopen(&disks[0]);
    check_works(&disks[0]);
}

/* States that no driver goes through, quickly. */
TEST(states_at_random)
{
    u32 random = 12345;

    prepare_disks();
    open_disk(&disks[2], XVDC);
    for ( unsigned int i = 0; i < 300; i++ )
    {
        random = random * 1103515245 + 12345;
        if ( random >> 28 == 0 )
            front_write(&disks[0].device, "state", "banana");
        else if ( random >> 28 == 1 )
            front_write(&disks[0].device, "state", "18446744073709551621");
        else
            switch_state(&disks[0].device, (random >> 16) % 10);
    }
    check_works(&disks[2]);
    switch_state(&disks[0].device, XenbusStateClosed);
    await(&disks[0].device, XenbusStateClosed);
    reopen(&disks[0]);
    check_works(&disks[0]);
}

/* Two devices cannot have one port. */
TEST(double_bind)
{
    prepare_disks();
    find_device(&disks[2].device, "vbd", XVDC);
    await(&disks[2].device, XenbusStateInitWait);
    front_write_number(&disks[2].device, "ring-ref", disks[0].first_ref);
    front_write_number(&disks[2].device, "event-channel", disks[0].port);
    switch_state(&disks[2].device, XenbusStateInitialised);
    await(&disks[2].device, XenbusStateClosing);
    check_works(&disks[0]);
}

/* The same page in every segment of every request. */
TEST(one_page_for_everything)
{
    prepare_disks();
    for ( unsigned int round = 0; round < 20; round++ )
    {
        for ( unsigned int i = 0; i < RING_SIZE(&disks[0].ring); i++ )
        {
            blkif_request_t *request = new_request(&disks[0], i % 2 ? BLKIF_OP_READ : BLKIF_OP_WRITE);

            for ( unsigned int j = 0; j < 11; j++ )
                segment(request, DATA_REF, 0, 7);
        }
        push(&disks[0]);
        for ( unsigned int i = 0; i < RING_SIZE(&disks[0].ring); i++ )
            CHECK_EQ(answer(&disks[0]).status, BLKIF_RSP_OKAY);
    }
    check_works(&disks[0]);
}

/* Grants end while the back end has them, or had them. */
static void check_vanishing(void)
{
    memset(data[0], 0x41, PAGE_SIZE);
    CHECK_EQ(transfer(&disks[0], BLKIF_OP_WRITE, 0, 0, 8), BLKIF_RSP_OKAY);
    table[DATA_REF + 1].flags = 0;
    for ( unsigned int i = 0; i < 4; i++ )
        transfer(&disks[0], BLKIF_OP_READ, 0, 1, 8);
    grant_to(DATA_REF + 1, data[1], 0, 0);
    CHECK_EQ(transfer(&disks[0], BLKIF_OP_READ, 0, 1, 8), BLKIF_RSP_OKAY);
    CHECK(is_filled(data[1], 0x41, PAGE_SIZE));
    /* The ring's own page. */
    table[disks[0].first_ref].flags = 0;
    check_works(&disks[0]);
}

TEST(vanishing_grants)
{
    prepare_disks();
    check_vanishing();
}

static void persist(struct disk *disk)
{
    front_write(&disk->device, "feature-persistent", "1");
    reopen(disk);
}

TEST(vanishing_persistent_grants)
{
    prepare_disks();
    persist(&disks[0]);
    /* Once the back end has it, it is kept. */
    CHECK_EQ(transfer(&disks[0], BLKIF_OP_READ, 0, 1, 8), BLKIF_RSP_OKAY);
    CHECK(table[DATA_REF + 1].flags & GTF_writing);
    check_vanishing();
    /* And let go of at the end. */
    reopen(&disks[0]);
    CHECK(!(table[DATA_REF + 1].flags & (GTF_reading | GTF_writing)));
    check_works(&disks[0]);
}

/* A grant that is not kept is not in use any more when the answer is there. */
TEST(grants_are_let_go)
{
    prepare_disks();
    for ( unsigned int i = 0; i < 100; i++ )
    {
        CHECK_EQ(transfer(&disks[0], i % 2 ? BLKIF_OP_READ : BLKIF_OP_WRITE, i, i % 10, 8), BLKIF_RSP_OKAY);
        CHECK(!(table[DATA_REF + i % 10].flags & (GTF_reading | GTF_writing)));
    }
}

TEST(many_pages_and_queues)
{
    static const char *const names[] = {"queue-0/", "queue-1/"};
    char name[MAX_PATH];

    prepare_disks();
    find_device(&disks[2].device, "vbd", XVDC);
    CHECK_EQ(back_number(&disks[0].device, "max-ring-page-order"), 4);
    CHECK_EQ(back_number(&disks[0].device, "multi-queue-max-queues"), 4);
    /* Two rings of four pages each for xvda; the other one is that of disks[2], which has no disk of its own here. */
    switch_state(&disks[0].device, XenbusStateClosed);
    await(&disks[0].device, XenbusStateClosed);
    switch_state(&disks[0].device, XenbusStateInitialising);
    await(&disks[0].device, XenbusStateInitWait);
    front_write(&disks[0].device, "multi-queue-num-queues", "2");
    front_write(&disks[0].device, "ring-page-order", "2");
    for ( unsigned int i = 0; i < 2; i++ )
    {
        struct disk *queue = &disks[2 * i];

        make_ring(queue, 4);
        for ( unsigned int j = 0; j < 4; j++ )
        {
            append_number(append(append(name, names[i]), "ring-ref"), j);
            front_write_number(&disks[0].device, name, queue->first_ref + j);
        }
        append(append(name, names[i]), "event-channel");
        front_write_number(&disks[0].device, name, queue->port);
    }
    connect(&disks[0]);
    CHECK_EQ(RING_SIZE(&disks[0].ring), 128);
    /* Often enough for every entry to be used, also those that are on two pages. */
    for ( unsigned int i = 0; i < 300; i++ )
    {
        struct disk *queue = &disks[i % 2 * 2];

        memset(data[0], i, PAGE_SIZE);
        CHECK_EQ(transfer(queue, BLKIF_OP_WRITE, i, 0, 1), BLKIF_RSP_OKAY);
        CHECK_EQ(transfer(queue, BLKIF_OP_READ, i, 1, 1), BLKIF_RSP_OKAY);
        CHECK(is_filled(data[1], i, 512));
    }
}

/* Entries as a 32-bit front end has them: 64-bit numbers are aligned to 4 bytes. */
struct request32 {
    u8 operation, nr_segments;
    u16 handle;
    u64 id;
    u64 sector_number;
    struct blkif_request_segment seg[11];
} __attribute__((packed));

struct response32 {
    u64 id;
    u8 operation;
    u8 pad;
    int16_t status;
} __attribute__((packed));

TEST(ring_of_32_bits)
{
    struct request32 *entries = (void *)(ring_pages[0][0] + 64);
    blkif_sring_t *shared = (void *)ring_pages[0];

    prepare_disks();
    switch_state(&disks[0].device, XenbusStateClosed);
    await(&disks[0].device, XenbusStateClosed);
    switch_state(&disks[0].device, XenbusStateInitialising);
    await(&disks[0].device, XenbusStateInitWait);
    make_ring(&disks[0], 1);
    front_write(&disks[0].device, "protocol", XEN_IO_PROTO_ABI_X86_32);
    tell_ring(&disks[0]);
    connect(&disks[0]);
    CHECK_EQ(sizeof(struct request32), 108);
    for ( unsigned int i = 0; i < 70; i++ )
    {
        struct request32 *request = &entries[i % 32];
        struct response32 *response = (void *)request;

        memset(data[i % 2], i, PAGE_SIZE);
        *request = (struct request32){
            .operation = i % 2 ? BLKIF_OP_READ : BLKIF_OP_WRITE,
            .nr_segments = 1,
            .id = 0x123456789 + i,
            .sector_number = i / 2,
            .seg = {{.gref = DATA_REF + i % 2, .first_sect = 0, .last_sect = 0}},
        };
        barrier();
        shared->req_prod = i + 1;
        send_event(disks[0].port);
        while ( READ_ONCE(shared->rsp_prod) != i + 1 )
            yield();
        CHECK_EQ(response->id, 0x123456789 + i);
        CHECK_EQ(response->status, BLKIF_RSP_OKAY);
        if ( i % 2 )
            CHECK(is_filled(data[1], i - 1, 512));
    }
}

/*
 * A page is executed, then a read from the disk puts other code there, and it is executed again. The disk has, in
 * page after page, functions that return 1, 2, 3 and so on.
 */
static u8 code[PAGE_SIZE] PAGE_ALIGNED;

static void check_code(void)
{
    u32 (*function)(void) = (void *)code;

    grant_to(REF + 50, code, 0, 0);
    for ( u32 i = 1; i <= 60; i++ )
    {
        /* mov $i, %eax; ret */
        memset(data[0], 0xcc, PAGE_SIZE);
        data[0][0] = 0xb8;
        memcpy(&data[0][1], &i, 4);
        data[0][5] = 0xc3;
        CHECK_EQ(transfer(&disks[0], BLKIF_OP_WRITE, i * 8, 0, 8), BLKIF_RSP_OKAY);
    }
    REQUIRE_EQ(map(code, make_pte(virt_to_mfn(code), PTE_RW)), 0);
    for ( unsigned int round = 0; round < 3; round++ )
        for ( u32 i = 1; i <= 60; i++ )
        {
            blkif_request_t *request = new_request(&disks[0], BLKIF_OP_READ);

            request->sector_number = i * 8;
            segment(request, REF + 50, 0, 7);
            CHECK_EQ(status_of_request(&disks[0], request), BLKIF_RSP_OKAY);
            for ( unsigned int again = 0; again < 3; again++ )
                CHECK_EQ(function(), i);
        }
}

TEST(code_from_disk)
{
    prepare_disks();
    check_code();
}

TEST(code_from_disk_with_persistent_grants)
{
    prepare_disks();
    persist(&disks[0]);
    check_code();
}

/* The guest ends with requests under way. */
GUEST(ends_in_the_middle)
{
    prepare_disks();
    for ( unsigned int i = 0; i < RING_SIZE(&disks[0].ring); i++ )
    {
        blkif_request_t *request = new_request(&disks[0], BLKIF_OP_WRITE);

        request->sector_number = i * 8;
        segment(request, DATA_REF, 0, 7);
    }
    push(&disks[0]);
}
