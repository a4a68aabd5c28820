/* The guest's memory. What a run writes is copied from the image first and restored afterwards, page by page,
 * and beyond some tens of separate places all at once through the kernel. So what a run allocates has to lie
 * together, and what the image holds has to be left alone, however large it is. What differs from the image when
 * top-level code has run is copied for every run of that function, garbage too, unless it is zero again. */

/* Small runs end without a collection. */
#define GC_HEADROOM (4 * 1024 * 1024)
/* Free memory in the image, in one piece, so that small runs do not grow theirs. */
#define HEAP_HEADROOM (512 * 1024)

/* Names that prepared code and a run may add before the table of names has to grow. */
#define NEW_ATOMS 1024
/* For the 12,000 names of the image: with fewer places, to look for a name is to look at others, all over the image; with
 * more, new names are entered on more pages. */
#define ATOM_HASH_SIZE 16384
#define NEW_SHAPES 256
#define SHAPE_HASH_BITS 11

/* Takes every hole in the heap below `end` for good. There has to be free memory above. */
static void plug_holes(char *end)
{
    for (size_t size = 64 * 1024; size >= 8; size -= size > 1024 ? size / 4 : 8) {
        char *hole;
        while ((hole = malloc(size)) && hole < end)
            ;
        free(hole);
    }
}

/* Where memory ends at the moment. */
static char *end_of_memory(void)
{
    return (char *)(__builtin_wasm_memory_size(0) * 65536);
}

/* QuickJS keeps small blocks in pages by size. None of today's is filled any further; every size gets a new
 * one, next to each other. There are 31 sizes, of most of which a small run makes a few: with pages of 1.5 KiB, instead of
 * 4, it writes to 26 of the system's instead of 47. */
static void start_fresh_pages(void)
{
    for (int i = 0; i < JS_ARENA_BLOCK_SIZE_COUNT; i++) {
        struct list_head *at, *next;
        list_for_each_safe(at, next, &rt->arena_state.free_arena_list[i]) {
            list_del(at);
            init_list_head(at); /* when its last block is freed, it is unlinked once more */
        }
        init_list_head(&rt->arena_state.arena_list[i]); /* or a new page would be linked to one of today's */
    }
    for (int i = 0; i < JS_ARENA_BLOCK_SIZE_COUNT; i++)
        arena_new(rt, i);
}

/* The tables that new names and shapes are entered into, at places that hashes choose: small, and moved to where
 * everything new lies, beyond `end`. New names take new numbers, one after another, not those that init has freed. */
static void gather_tables(char *end)
{
    JS_ResizeAtomHash(rt, ATOM_HASH_SIZE);
    plug_holes(end); /* that the old one has left */

    JSAtomStruct **atoms = js_malloc_rt(rt, (rt->atom_size + NEW_ATOMS) * sizeof(*atoms));
    memcpy(atoms, rt->atom_array, rt->atom_size * sizeof(*atoms));
    for (int i = rt->atom_size; i < rt->atom_size + NEW_ATOMS; i++)
        atoms[i] = atom_set_free(i + 1 < rt->atom_size + NEW_ATOMS ? i + 1 : 0);
    js_free_rt(rt, rt->atom_array);
    plug_holes(end);
    rt->atom_array = atoms;
    rt->atom_free_index = rt->atom_size;
    rt->atom_size += NEW_ATOMS;
    rt->atom_count_resize = rt->atom_count + 2 * NEW_ATOMS;

    /* it grows at half of its size, and that would write to every shape of the image */
    int bits = SHAPE_HASH_BITS;
    while ((1 << bits) < 2 * (rt->shape_hash_count + NEW_SHAPES))
        bits++;
    resize_shape_hash(rt, bits);
    plug_holes(end);
}

/* Makes the properties that QuickJS makes when somebody first asks for them: every run would ask again. */
static void make_lazy_properties(void)
{
    struct list_head *at; /* what is made joins the end of this list */
    list_for_each(at, &rt->gc_obj_list) {
        if (JS_GC_TYPE(list_entry(at, JSGCObjectHeader, link)) != JS_GC_OBJ_TYPE_JS_OBJECT)
            continue;
        JSObject *object = list_entry(at, JSObject, header.link);
        for (int i = 0; i < object->shape->prop_count; i++) {
            JSShapeProperty *property = get_shape_prop(object->shape) + i;
            if (property->atom != JS_ATOM_NULL && (property->flags & JS_PROP_TMASK) == JS_PROP_AUTOINIT)
                JS_AutoInitProperty(ctx, object, property->atom, &object->prop[i], property);
        }
    }
}

/* Lets the collector pass over all objects of today, as if they were held from outside: it would write to
 * each. What they hold is held, as before. */
static void freeze_objects(void)
{
    static struct list_head frozen = {&frozen, &frozen};
    struct list_head *at, *next;
    list_for_each_safe(at, next, &rt->gc_obj_list) {
        JS_REF_COUNT(list_entry(at, JSGCObjectHeader, link))++;
        list_del(at);
        list_add_tail(at, &frozen);
    }
    rt->malloc_gc_threshold = rt->malloc_state.malloc_size + GC_HEADROOM;
}

/* ---- what is free is zero ------------------------------------------------------------------------- */

static void wiping_free(void *opaque, void *block)
{
    if (block && !running)
        explicit_bzero(block, malloc_usable_size(block)); /* not memset, which is left out before free */
    free(block);
}

static void *wiping_realloc(void *opaque, void *block, size_t size)
{
    size_t held = block ? malloc_usable_size(block) : 0;
    if (size <= held && is_immortal(block))
        return block;
    if (size <= held || (running && !is_immortal(block)))
        return realloc(block, size);
    void *larger = malloc(size);
    if (larger && block) {
        memcpy(larger, block, held);
        if (!is_immortal(block))
            wiping_free(opaque, block);
    }
    return larger;
}

static const JSMallocFunctions wiping_functions = {
    js_def_calloc, js_def_malloc, wiping_free, wiping_realloc, js__malloc_usable_size,
};

/* Wipes the small blocks that are free in pages with others that are not. */
static void wipe_free_blocks(void)
{
    for (int i = 0; i < JS_ARENA_BLOCK_SIZE_COUNT; i++) {
        unsigned int size = arena_block_sizes[i];
        struct list_head *at;
        list_for_each(at, &rt->arena_state.free_arena_list[i]) {
            JSArena *page = list_entry(at, JSArena, free_link);
            unsigned int index = page->first_free_block;
            while (index != JS_ARENA_FREE_NIL) {
                JSMallocBlockHeader *block = arena_get_block(page, index, size);
                memset(block->user_data, 0, size - sizeof(*block));
                block->ref_count = 0;
                index = block->u.free_next;
            }
        }
    }
}

/* Wipes what calls that have returned left on the stack, which ends at the bottom of memory. The first bytes are
 * nobody's, and a function that calls none may use a little below its frame. */
static no_inline void wipe_stack(void)
{
    char *bottom = (char *)64;
    char *top = (char *)__builtin_frame_address(0) - 256;
    if (top > bottom)
        memset(bottom, 0, top - bottom);
}
