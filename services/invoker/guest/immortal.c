/* What the image holds lives for ever, and nobody counts who refers to it. QuickJS would write to an object, a string,
 * a shape or a name of the image whenever a run refers to it, and each page that is written costs every run. Part of
 * quickjs.c, by engine/build/quickjs.rs. */

/* Never near what QuickJS asks for: whether there is another reference, or one left. */
#define IMMORTAL (1 << 30)

/* Where what is new begins; 0 while the image is made. Nothing that is allocated later may lie below, as its references
 * would not be counted: all holes there are plugged, and no memory of the image is freed. */
static char *image_end;

static inline bool is_immortal(const void *block)
{
    return (char *)block < image_end;
}

/* Where references to `block` are counted. For the image that is one place for all, whose count is nobody's. */
static inline int *ref_count_of(JSMallocBlockHeader *block)
{
    static int nobodys;
    if (likely(!is_immortal(block)))
        return &block->ref_count;
    nobodys = IMMORTAL;
    return &nobodys;
}
