/* The texts of functions, for toString(). QuickJS keeps that of every function, which for a function inside of
 * others is held once more by each of those: three times a bundle's size, to be copied for every run. The host
 * has the source, so a function keeps only where in it its text begins. */

struct place {
    uint32_t at, len;
};

static void keep_places_in(JSFunctionBytecode *outer, const char *source, size_t start, size_t end)
{
    size_t from = start; /* the next text seldom begins before the last one; that of a constructor is its class's */
    for (int i = 0; i < outer->cpool_count; i++) {
        if (JS_VALUE_GET_TAG(outer->cpool[i]) != JS_TAG_FUNCTION_BYTECODE)
            continue;
        JSFunctionBytecode *inner = JS_VALUE_GET_PTR(outer->cpool[i]);
        if (!inner->source) { /* made of the fields of a class */
            keep_places_in(inner, source, start, end);
            continue;
        }
        /* any text will do that reads the same */
        const char *text = memmem(source + from, end - from, inner->source, inner->source_len);
        if (!text)
            text = memmem(source + start, end - start, inner->source, inner->source_len);
        js_free(ctx, inner->source);
        struct place place = {text - source, inner->source_len};
        struct place *kept = text ? js_malloc(ctx, sizeof(*kept)) : NULL;
        inner->source = (char *)kept;
        inner->source_len = sizeof(*kept); /* for JS_WriteObject */
        if (!kept)
            continue;
        *kept = place;
        keep_places_in(inner, source, place.at, place.at + place.len);
        from = place.at;
    }
}

/* Replaces the texts of all functions in `code`, which was compiled from `source`. */
static void keep_places(JSValueConst code, const char *source, size_t len)
{
    if (JS_VALUE_GET_TAG(code) == JS_TAG_MODULE)
        code = ((JSModuleDef *)JS_VALUE_GET_PTR(code))->func_obj;
    keep_places_in(JS_VALUE_GET_PTR(code), source, 0, len);
}

/* Function.prototype.toString. Functions of the prelude have no text, and read as if they were native. */
static JSValue function_text(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    JSFunctionBytecode *code = NULL;
    if (JS_IsFunction(c, self) && js_class_has_bytecode(JS_VALUE_GET_OBJ(self)->class_id))
        code = JS_VALUE_GET_OBJ(self)->u.func.function_bytecode;
    if (!code || !code->source)
        return js_function_toString(c, self, argc, argv);
    struct place place = *(struct place *)code->source;
    char *text = js_malloc(c, place.len + 1);
    if (!text)
        return JS_EXCEPTION;
    host_source(place.at, text, place.len);
    JSValue value = JS_NewStringLen(c, text, place.len);
    js_free(c, text);
    return value;
}
