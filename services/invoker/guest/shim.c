/* The guest: QuickJS-NG with the few entry points that the host calls, and the few host functions that
 * the prelude uses. One translation unit with the engine, because much of what follows has no public function: where
 * memory comes from (memory.c), who counts references (immortal.c), the texts of functions (texts.c), the seed of
 * Math.random, the stack limit under WASI, the variables of a module, and what bytecode leaves out.
 *
 * Life of an instance:
 *   begin    at start-up of the host, in two instances: `compile_prelude` in the one, for each file of the prelude, and
 *            `evaluate` in the other, so that what compiling leaves behind is not in the way there
 *   init     once, in the second; its memory becomes the image of every later instance
 *   compile  in a throw-away instance: turns a source into bytecode
 *   prepare  in another one: runs the top-level code; what changed in memory becomes the prepared
 *            function
 *   run      in a fresh instance with those changes applied: runs the lambda, once
 */
#include "quickjs.c"

_Static_assert(BC_VERSION == 28, "see that bytecode still holds what seal_templates and keep_places expect");

#define IMPORT(name) __attribute__((import_module("chatfn"), import_name(name))) extern
#define EXPORT(name) __attribute__((export_name(name)))

/* The lowest address that JavaScript may push its stack to. The stack lies at the bottom of memory and
 * C functions that do not check need some room below. */
#define STACK_FLOOR (128 * 1024)
enum input { INPUT_SOURCE = 0, INPUT_BYTECODE = 0, INPUT_EVENT = 0, INPUT_CONTEXT = 1, INPUT_NAME = 1, INPUT_ENV = 2 };

/* In step with `GuestFailure` in engine/src/verdict.rs. */
enum failure {
    FAIL_THROWN = 0,
    FAIL_NEVER_SETTLES = 1,
    FAIL_NOT_JSON = 2,
    FAIL_SYNTAX = 3,
    FAIL_NO_LAMBDA = 4,
    FAIL_IMPORT = 5,   /* message: the specifier, stack: what is available, separated by commas */
    FAIL_TOP_LEVEL = 6 /* message: what was tried */
};

IMPORT("input") void host_input(int32_t which, void *to, size_t len);
IMPORT("source") void host_source(size_t at, void *to, size_t len);
IMPORT("compiled") void host_compiled(const void *bytecode, size_t len);
IMPORT("log") void host_log(int32_t level, const char *text, size_t len, const char *extras, size_t extras_len);
IMPORT("random") void host_random(void *to, size_t len);
IMPORT("monotonic_ms") double host_monotonic_ms(void);
IMPORT("remaining_ms") double host_remaining_ms(void);
IMPORT("call") int32_t host_call(int32_t kind, const void *text, size_t len);
IMPORT("call_result") void host_call_result(void *to, size_t len);
IMPORT("op_start") int32_t host_op_start(int32_t kind, const void *request, size_t len);
IMPORT("op_wait") int32_t host_op_wait(double wake_at_ms);
IMPORT("op_size") int32_t host_op_size(int32_t id);
IMPORT("op_take") void host_op_take(int32_t id, void *to, size_t len);
IMPORT("op_cancel") void host_op_cancel(int32_t id);
IMPORT("finish") void host_finish(const char *json, size_t len);
IMPORT("fail") void host_fail(int32_t kind, const char *name, size_t name_len, const char *message,
                              size_t message_len, const char *stack, size_t stack_len);

static JSRuntime *rt;
static JSContext *ctx;
static JSValue internals; /* the object that the prelude's files share */
static JSValue host;      /* what the prelude can call */
static JSValue lambda;
static bool running;        /* false while the prelude and top-level code run */
static double wake_at = -1; /* when the next timer is due, on the host's monotonic clock */
static bool rejections;     /* a promise was rejected and nobody handled it yet */

#include "memory.c"
#include "texts.c"
#include "names.c"

/* ---- what the prelude can call ------------------------------------------------------------------ */

/* log(level, text, extras): extras are JSON, or empty */
static JSValue js_log(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    int32_t level;
    size_t len, extras_len;
    if (JS_ToInt32(c, &level, argv[0]))
        return JS_EXCEPTION;
    const char *text = JS_ToCStringLen(c, &len, argv[1]);
    const char *extras = text ? JS_ToCStringLen(c, &extras_len, argv[2]) : NULL;
    if (extras)
        host_log(level, text, len, extras, extras_len);
    JS_FreeCString(c, extras);
    JS_FreeCString(c, text);
    return extras ? JS_UNDEFINED : JS_EXCEPTION;
}

static JSValue js_is_running(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    return js_bool(running);
}

static JSValue js_monotonic(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    return js_float64(host_monotonic_ms());
}

static JSValue js_remaining(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    return js_float64(host_remaining_ms());
}

static JSValue js_wake_at(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    if (JS_ToFloat64(c, &wake_at, argv[0]))
        return JS_EXCEPTION;
    return JS_UNDEFINED;
}

/* random(view): fills a typed array */
static JSValue js_random(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    size_t offset, len, size;
    JSValue buffer = JS_GetTypedArrayBuffer(c, argv[0], &offset, &len, NULL);
    if (JS_IsException(buffer))
        return JS_EXCEPTION;
    uint8_t *bytes = JS_GetArrayBuffer(c, &size, buffer);
    if (bytes && offset <= size && len <= size - offset)
        host_random(bytes + offset, len);
    JS_FreeValue(c, buffer);
    return JS_UNDEFINED;
}

/* call(kind, text): a question that the host answers at once, as a string, or null */
static JSValue js_call(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    int32_t kind;
    size_t len;
    if (JS_ToInt32(c, &kind, argv[0]))
        return JS_EXCEPTION;
    const char *text = JS_ToCStringLen(c, &len, argv[1]);
    if (!text)
        return JS_EXCEPTION;
    int32_t size = host_call(kind, text, len);
    JS_FreeCString(c, text);
    if (size < 0)
        return JS_NULL;
    char *answer = js_malloc(c, size + 1);
    if (!answer)
        return JS_EXCEPTION;
    host_call_result(answer, size);
    JSValue value = JS_NewStringLen(c, answer, size);
    js_free(c, answer);
    return value;
}

/* callBytes(kind, Uint8Array) -> ArrayBuffer, or null */
static JSValue js_call_bytes(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    int32_t kind;
    size_t len;
    if (JS_ToInt32(c, &kind, argv[0]))
        return JS_EXCEPTION;
    uint8_t *question = JS_GetUint8Array(c, &len, argv[1]);
    if (!question)
        return JS_EXCEPTION;
    int32_t size = host_call(kind, question, len);
    if (size < 0)
        return JS_NULL;
    JSValue buffer = js_array_buffer_constructor1(c, JS_UNDEFINED, size, NULL);
    if (JS_IsException(buffer))
        return JS_EXCEPTION;
    uint8_t *answer = JS_GetArrayBuffer(c, &len, buffer);
    host_call_result(answer, len);
    return buffer;
}

/* startOp(kind, Uint8Array) -> id, or a negative number */
static JSValue js_start_op(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    int32_t kind;
    size_t len;
    if (JS_ToInt32(c, &kind, argv[0]))
        return JS_EXCEPTION;
    uint8_t *request = JS_GetUint8Array(c, &len, argv[1]);
    if (!request)
        return JS_EXCEPTION;
    return js_int32(host_op_start(kind, request, len));
}

/* takeOp(id) -> ArrayBuffer */
static JSValue js_take_op(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    int32_t id;
    if (JS_ToInt32(c, &id, argv[0]))
        return JS_EXCEPTION;
    int32_t size = host_op_size(id);
    if (size < 0)
        return JS_ThrowInternalError(c, "operation %d has no result", id);
    JSValue buffer = js_array_buffer_constructor1(c, JS_UNDEFINED, size, NULL);
    if (JS_IsException(buffer))
        return JS_EXCEPTION;
    size_t len;
    uint8_t *bytes = JS_GetArrayBuffer(c, &len, buffer);
    host_op_take(id, bytes, len);
    return buffer;
}

static JSValue js_cancel_op(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    int32_t id;
    if (JS_ToInt32(c, &id, argv[0]))
        return JS_EXCEPTION;
    host_op_cancel(id);
    return JS_UNDEFINED;
}

/* QuickJS writes a lone surrogate as ED A0..BF xx, exactly as long as U+FFFD, which takes its place. */
static void replace_lone_surrogates(uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i + 2 < len; i++) {
        if (bytes[i] == 0xED && bytes[i + 1] >= 0xA0) {
            memcpy(bytes + i, "\xEF\xBF\xBD", 3);
            i += 2;
        }
    }
}

/* encode(string) -> Uint8Array in UTF-8, lone surrogates replaced */
static JSValue js_encode(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    size_t len;
    const char *text = JS_ToCStringLen(c, &len, argv[0]);
    if (!text)
        return JS_EXCEPTION;
    JSValue array = JS_NewUint8ArrayCopy(c, (const uint8_t *)text, len);
    JS_FreeCString(c, text);
    if (JS_IsException(array))
        return array;
    uint8_t *bytes = JS_GetUint8Array(c, &len, array);
    if (bytes)
        replace_lone_surrogates(bytes, len);
    return array;
}

/* The length of a prefix that is well-formed UTF-8, cut before the first wrong or unfinished sequence. */
static size_t utf8_prefix(const uint8_t *s, size_t len)
{
    size_t i = 0;
    while (i < len) {
        uint8_t b = s[i];
        if (b < 0x80) {
            i++;
            continue;
        }
        size_t more = b >= 0xC2 && b <= 0xDF ? 1 : (b & 0xF0) == 0xE0 ? 2 : b >= 0xF0 && b <= 0xF4 ? 3 : 0;
        if (more == 0 || len - i <= more)
            return i;
        uint8_t low = b == 0xE0 ? 0xA0 : b == 0xF0 ? 0x90 : 0x80;
        uint8_t high = b == 0xED ? 0x9F : b == 0xF4 ? 0x8F : 0xBF;
        if (s[i + 1] < low || s[i + 1] > high)
            return i;
        for (size_t k = 2; k <= more; k++)
            if ((s[i + k] & 0xC0) != 0x80)
                return i;
        i += more + 1;
    }
    return len;
}

/* decodePrefix(Uint8Array) -> [string, bytes consumed]: stops before what is not UTF-8 */
static JSValue js_decode_prefix(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    size_t len;
    uint8_t *bytes = JS_GetUint8Array(c, &len, argv[0]);
    if (!bytes && len > 0)
        return JS_EXCEPTION;
    size_t good = utf8_prefix(bytes, len);
    JSValue parts[2] = {JS_NewStringLen(c, (const char *)bytes, good), JS_NewUint32(c, good)};
    if (JS_IsException(parts[0]))
        return JS_EXCEPTION;
    return JS_NewArrayFrom(c, 2, parts);
}

static JSValue js_is_async(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    return js_bool(JS_IsAsyncFunction(argv[0]));
}

static const JSCFunctionListEntry host_functions[] = {
    JS_CFUNC_DEF("log", 3, js_log),
    JS_CFUNC_DEF("isRunning", 0, js_is_running),
    JS_CFUNC_DEF("monotonic", 0, js_monotonic),
    JS_CFUNC_DEF("remaining", 0, js_remaining),
    JS_CFUNC_DEF("wakeAt", 1, js_wake_at),
    JS_CFUNC_DEF("random", 1, js_random),
    JS_CFUNC_DEF("call", 2, js_call),
    JS_CFUNC_DEF("callBytes", 2, js_call_bytes),
    JS_CFUNC_DEF("startOp", 2, js_start_op),
    JS_CFUNC_DEF("takeOp", 1, js_take_op),
    JS_CFUNC_DEF("cancelOp", 1, js_cancel_op),
    JS_CFUNC_DEF("encode", 1, js_encode),
    JS_CFUNC_DEF("decodePrefix", 1, js_decode_prefix),
    JS_CFUNC_DEF("isAsync", 1, js_is_async),
};

/* ---- helpers ------------------------------------------------------------------------------------ */

/* Calls a function of the shared object. */
static JSValue call_prelude(const char *name, int argc, JSValueConst *argv)
{
    JSValue function = JS_GetPropertyStr(ctx, internals, name);
    if (JS_IsException(function))
        return function;
    JSValue result = JS_Call(ctx, function, JS_UNDEFINED, argc, argv);
    JS_FreeValue(ctx, function);
    return result;
}

/* Math.random of this function draws from a seed that `run` takes from the host. */
static JSValue math_random(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    if (unlikely(!running)) {
        JSValue what = JS_NewString(c, "Math.random()");
        JSValue thrown = call_prelude("forbid", 1, vc(&what));
        JS_FreeValue(c, what);
        JS_FreeValue(c, thrown);
        return JS_EXCEPTION;
    }
    return js_math_random(c, self, argc, argv);
}

static JSValue eval_disabled(JSContext *c, JSValueConst self, const char *input, size_t len,
                             const char *filename, int line, int flags, int scope)
{
    return JS_Throw(c, JS_MakeError2(c, JS_EVAL_ERROR, true,
                                     "eval and new Function are disabled: a lambda runs only the code "
                                     "that was deployed"));
}

static void fail_text(enum failure kind, const char *name, const char *message)
{
    host_fail(kind, name, strlen(name), message, strlen(message), "", 0);
}

/* Reports a value that was thrown. `kind` is the reading when the value itself does not say more. */
static void fail_with(enum failure kind, JSValue thrown)
{
    const char *text[3] = {NULL, NULL, NULL};
    size_t len[3] = {0, 0, 0};
    JSValue args[2] = {thrown, js_int32(kind)};
    JSValue parts = call_prelude("describe", 2, vc(args));
    if (!JS_IsException(parts)) {
        int32_t refined = kind;
        JSValue first = JS_GetPropertyUint32(ctx, parts, 0);
        JS_ToInt32(ctx, &refined, first);
        kind = refined;
        for (int i = 0; i < 3; i++) {
            JSValue part = JS_GetPropertyUint32(ctx, parts, i + 1);
            text[i] = JS_ToCStringLen(ctx, &len[i], part);
        }
    }
    if (text[0] && text[1] && text[2])
        host_fail(kind, text[0], len[0], text[1], len[1], text[2], len[2]);
    else /* no memory or stack left to look at it */
        fail_text(kind, "InternalError", "out of memory");
}

static void fail_pending(enum failure kind)
{
    fail_with(kind, JS_GetException(ctx));
}

static void on_rejection(JSContext *c, JSValueConst promise, JSValueConst reason, bool handled, void *opaque)
{
    JSValueConst args[3] = {promise, reason, js_bool(handled)};
    JSValue result = call_prelude("onRejection", 3, args);
    if (JS_IsException(result))
        JS_FreeValue(c, JS_GetException(c));
    rejections = true;
}

static void drain_jobs(void)
{
    JSContext *c;
    int done;
    do {
        done = JS_ExecutePendingJob(rt, &c);
        if (done < 0)
            JS_FreeValue(ctx, JS_GetException(ctx)); /* a job's own promise carries the error */
    } while (done != 0);
}

/* Logs rejections that are still unhandled, except that of `awaited`. */
static void report_rejections(JSValueConst awaited)
{
    if (!rejections)
        return;
    rejections = false;
    JSValue result = call_prelude("reportRejections", 1, &awaited);
    if (JS_IsException(result))
        JS_FreeValue(ctx, JS_GetException(ctx));
}

/* An input of the host as a zero-terminated string, for `release`. */
static char *take_input(enum input which, size_t len)
{
    char *text = malloc(len + 1);
    if (!text)
        return NULL;
    host_input(which, text, len);
    text[len] = '\0';
    return text;
}

static void release(char *text)
{
    wiping_free(NULL, text);
}

static JSValue parse_input(enum input which, size_t len)
{
    char *text = take_input(which, len);
    if (!text)
        return JS_ThrowOutOfMemory(ctx);
    JSValue value = JS_ParseJSON(ctx, text, len, "input");
    release(text);
    return value;
}

/* ---- modules ------------------------------------------------------------------------------------ */

static char *normalize_module(JSContext *c, const char *base, const char *name, void *opaque)
{
    return js_strdup(c, name);
}

static int init_module(JSContext *c, JSModuleDef *m)
{
    JSValue exports = JS_GetModulePrivateValue(c, m);
    JSPropertyEnum *keys;
    uint32_t count;
    int result = -1;
    if (JS_GetOwnPropertyNames(c, &keys, &count, exports, JS_GPN_STRING_MASK | JS_GPN_ENUM_ONLY) == 0) {
        result = JS_SetModuleExport(c, m, "default", js_dup(exports));
        for (uint32_t i = 0; result == 0 && i < count; i++) {
            if (keys[i].atom == JS_ATOM_default)
                continue;
            const char *name = JS_AtomToCString(c, keys[i].atom);
            JSValue value = JS_GetProperty(c, exports, keys[i].atom);
            result = !name || JS_IsException(value) ? -1 : JS_SetModuleExport(c, m, name, value);
            JS_FreeCString(c, name);
        }
        JS_FreePropertyEnum(c, keys, count);
    }
    JS_FreeValue(c, exports);
    return result;
}

/* Gives a built-in module of the prelude's table to `import`. */
static JSModuleDef *load_module(JSContext *c, const char *name, void *opaque)
{
    JSValue specifier = JS_NewString(c, name);
    JSValue exports = call_prelude("require", 1, vc(&specifier));
    JS_FreeValue(c, specifier);
    if (JS_IsException(exports))
        return NULL;
    JSPropertyEnum *keys;
    uint32_t count;
    JSModuleDef *m = JS_NewCModule(c, name, init_module);
    if (!m || JS_GetOwnPropertyNames(c, &keys, &count, exports, JS_GPN_STRING_MASK | JS_GPN_ENUM_ONLY)) {
        JS_FreeValue(c, exports);
        return NULL;
    }
    JS_AddModuleExport(c, m, "default");
    for (uint32_t i = 0; i < count; i++) {
        if (keys[i].atom == JS_ATOM_default)
            continue;
        const char *key = JS_AtomToCString(c, keys[i].atom);
        if (key)
            JS_AddModuleExport(c, m, key);
        JS_FreeCString(c, key);
    }
    JS_FreePropertyEnum(c, keys, count);
    JS_SetModulePrivateValue(c, m, exports);
    return m;
}

/* A variable of a module's scope, exported or not. */
static JSValue module_variable(JSModuleDef *m, JSAtom name)
{
    JSObject *function = JS_VALUE_GET_OBJ(m->func_obj);
    JSFunctionBytecode *code = function->u.func.function_bytecode;
    for (int i = 0; i < code->closure_var_count; i++) {
        if (code->closure_var[i].var_name == name && function->u.func.var_refs[i]) {
            JSValue value = *function->u.func.var_refs[i]->pvalue;
            return JS_IsUninitialized(value) ? JS_UNDEFINED : js_dup(value);
        }
    }
    return JS_UNDEFINED;
}

/* A call site would hand out its function to Error.prepareStackTrace, and every function of the prelude is on
 * the stack at some time. Elsewhere strict functions have no function to hand out either. */
static JSValue no_function(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    return JS_UNDEFINED;
}

static void hide_functions_of_call_sites(void)
{
    JS_DefinePropertyValueStr(ctx, ctx->class_proto[JS_CLASS_CALL_SITE], "getFunction",
                              JS_NewCFunction(ctx, no_function, "getFunction", 0),
                              JS_PROP_WRITABLE | JS_PROP_CONFIGURABLE);
}

/* ---- entry points ------------------------------------------------------------------------------- */

/* Makes an instance in which files of the prelude can be compiled or evaluated. */
EXPORT("begin") void guest_begin(void)
{
    rt = JS_NewRuntime2(&wiping_functions, NULL);
    rt->stack_limit = STACK_FLOOR;
    ctx = JS_NewContext(rt);
    JS_SetModuleLoaderFunc(rt, normalize_module, load_module, NULL);
    JS_SetHostPromiseRejectionTracker(rt, on_rejection, NULL);

    host = JS_NewObject(ctx);
    JS_SetPropertyFunctionList(ctx, host, host_functions, countof(host_functions));
    internals = JS_NewObject(ctx);
    lambda = JS_UNDEFINED;
    /* before the prelude, whose packages keep the function that they find */
    JSValue math = JS_GetPropertyStr(ctx, ctx->global_obj, "Math");
    JS_DefinePropertyValueStr(ctx, math, "random", JS_NewCFunction(ctx, math_random, "random", 0),
                              JS_PROP_WRITABLE | JS_PROP_CONFIGURABLE);
    JS_FreeValue(ctx, math);
    JS_DefinePropertyValueStr(ctx, ctx->function_proto, "toString",
                              JS_NewCFunction(ctx, function_text, "toString", 0),
                              JS_PROP_WRITABLE | JS_PROP_CONFIGURABLE);
    host_finish("", 0);
}

static void fail_in_prelude(void)
{
    static const char name[] = "Error";
    JSValue error = JS_GetException(ctx);
    const char *message = JS_ToCString(ctx, error);
    const char *stack = JS_ToCString(ctx, JS_GetPropertyStr(ctx, error, "stack"));
    host_fail(FAIL_THROWN, name, strlen(name), message, strlen(message), stack, strlen(stack));
}

/* Turns a file of the prelude into bytecode, without what only authors of lambdas need of theirs: the texts of functions
 * and the names of variables. */
EXPORT("compile_prelude") void guest_compile_prelude(size_t len, size_t name_len)
{
    char *source = take_input(INPUT_SOURCE, len);
    char *name = take_input(INPUT_NAME, name_len);
    JSValue code = JS_Eval(ctx, source, len, name, JS_EVAL_FLAG_COMPILE_ONLY);
    if (JS_IsException(code))
        return fail_in_prelude();
    drop_variable_names(JS_VALUE_GET_PTR(code));
    size_t size;
    uint8_t *bytes = JS_WriteObject(ctx, &size, code, JS_WRITE_OBJ_BYTECODE | JS_WRITE_OBJ_STRIP_SOURCE);
    if (!bytes)
        return fail_in_prelude();
    host_compiled(bytes, size);
    host_finish("", 0);
}

/* Runs a file of the prelude, from the bytecode of `compile_prelude`. */
EXPORT("evaluate") void guest_evaluate(size_t len)
{
    char *bytes = take_input(INPUT_BYTECODE, len);
    JSValue code = JS_ReadObject(ctx, (uint8_t *)bytes, len, JS_READ_OBJ_BYTECODE);
    release(bytes);
    JSValue file = JS_IsException(code) ? code : JS_EvalFunction(ctx, code);
    JSValueConst args[2] = {host, internals};
    JSValue result = JS_IsException(file) ? file : JS_Call(ctx, file, JS_UNDEFINED, 2, args);
    if (JS_IsException(result))
        return fail_in_prelude();
    JS_FreeValue(ctx, file);
    JS_FreeValue(ctx, result);
    host_finish("", 0);
}

/* Makes the image, once all files of the prelude have run. */
EXPORT("init") void guest_init(void)
{
    JS_FreeValue(ctx, host);
    host = JS_UNDEFINED;
    hide_functions_of_call_sites();
    drain_jobs();
    make_lazy_properties();
    JS_RunGC(rt);
    freeze_objects();
    char *end = end_of_memory();
    plug_holes(end);
    start_fresh_pages();
    gather_tables(end);
    void *volatile room = malloc(HEAP_HEADROOM); /* or the compiler leaves out both */
    free(room);
    image_end = end;
    wipe_stack();
    host_finish("", 0);
}

/* Keeps the lambda that `candidates` or the source's own scope has. */
static bool adopt_lambda(JSValue value)
{
    if (JS_IsFunction(ctx, value)) {
        lambda = value;
        return true;
    }
    JS_FreeValue(ctx, value);
    return false;
}

/* Turns a source into bytecode. */
EXPORT("compile") void guest_compile(size_t len, int32_t as_module)
{
    char *source = take_input(INPUT_SOURCE, len);
    if (!source)
        return fail_text(FAIL_THROWN, "InternalError", "out of memory");
    JSValue code = JS_Eval(ctx, source, len, "lambda.js",
                           JS_EVAL_FLAG_COMPILE_ONLY | (as_module ? JS_EVAL_TYPE_MODULE : JS_EVAL_TYPE_GLOBAL));
    if (JS_IsException(code))
        return fail_pending(FAIL_SYNTAX);
    keep_places(code, source, len);
    if (JS_HasException(ctx)) /* no memory for some of them */
        return fail_pending(FAIL_THROWN);
    size_t size;
    uint8_t *bytes = JS_WriteObject(ctx, &size, code, JS_WRITE_OBJ_BYTECODE);
    if (!bytes)
        return fail_pending(FAIL_THROWN);
    host_compiled(bytes, size);
    host_finish("", 0);
}

/* Bytecode holds the strings of tagged templates, but not that the lengths of these lists cannot be changed. Nothing else
 * among the constants is an object. */
static void seal_templates(JSValueConst code)
{
    if (JS_VALUE_GET_TAG(code) == JS_TAG_MODULE)
        code = ((JSModuleDef *)JS_VALUE_GET_PTR(code))->func_obj;
    JSFunctionBytecode *function = JS_VALUE_GET_PTR(code);
    for (int i = 0; i < function->cpool_count; i++) {
        JSValue constant = function->cpool[i];
        if (JS_VALUE_GET_TAG(constant) == JS_TAG_FUNCTION_BYTECODE)
            seal_templates(constant);
        if (!JS_IsObject(constant))
            continue;
        seal_template_obj(ctx, constant);
        JSValue raw = JS_GetProperty(ctx, constant, JS_ATOM_raw);
        if (JS_IsObject(raw))
            seal_template_obj(ctx, raw);
        JS_FreeValue(ctx, raw);
    }
}

/* Runs top-level code, from the bytecode of `compile`. */
EXPORT("prepare") void guest_prepare(size_t len)
{
    char *bytes = take_input(INPUT_BYTECODE, len);
    if (!bytes)
        return fail_text(FAIL_THROWN, "InternalError", "out of memory");
    JSValue code = JS_ReadObject(ctx, (uint8_t *)bytes, len, JS_READ_OBJ_BYTECODE);
    release(bytes);
    if (JS_IsException(code) || JS_ResolveModule(ctx, code) < 0)
        return fail_pending(FAIL_THROWN);
    seal_templates(code);
    ctx->eval_internal = eval_disabled;

    JSModuleDef *module = JS_VALUE_GET_TAG(code) == JS_TAG_MODULE ? JS_VALUE_GET_PTR(code) : NULL;
    JSValue done = JS_EvalFunction(ctx, code);
    if (JS_IsException(done))
        return fail_pending(FAIL_THROWN);
    drain_jobs();
    if (module) {
        JSPromiseStateEnum state = JS_PromiseState(ctx, done);
        if (state == JS_PROMISE_PENDING)
            return fail_text(FAIL_NEVER_SETTLES, "Error",
                             "top-level await waits for something that never happens during a deploy");
        if (state == JS_PROMISE_REJECTED)
            return fail_with(FAIL_THROWN, JS_PromiseResult(ctx, done));
    }
    report_rejections(done);
    JS_FreeValue(ctx, done);

    JSAtom name = JS_NewAtom(ctx, "lambda");
    bool found;
    if (module) {
        JSValue names = JS_GetModuleNamespace(ctx, module);
        found = adopt_lambda(call_prelude("findExported", 1, vc(&names))) ||
                adopt_lambda(module_variable(module, name));
        JS_FreeValue(ctx, names);
    } else {
        found = adopt_lambda(call_prelude("findExported", 0, NULL)) ||
                adopt_lambda(JS_GetGlobalVar(ctx, name, false));
    }
    JS_FreeAtom(ctx, name);
    if (!found) {
        if (JS_HasException(ctx)) /* a getter or an unfinished declaration */
            return fail_pending(FAIL_THROWN);
        return fail_text(FAIL_NO_LAMBDA, "Error", "the source has no function named lambda");
    }
    JS_RunGC(rt); /* what is garbage now would never be collected */
    freeze_objects();
    wipe_free_blocks();
    wipe_stack();
    host_finish("", 0);
}

/* Runs jobs, timers and finished operations until `promise` settles. */
static bool settle(JSValueConst promise)
{
    for (;;) {
        drain_jobs();
        report_rejections(promise);
        if (JS_PromiseState(ctx, promise) != JS_PROMISE_PENDING)
            return true;
        int32_t id = host_op_wait(wake_at);
        if (id == 0) {
            JSValue message = call_prelude("whyPending", 0, NULL);
            if (JS_IsNull(message)) /* it is settled now */
                continue;
            const char *text = JS_ToCString(ctx, message);
            fail_text(FAIL_NEVER_SETTLES, "Error", text ? text : "the lambda's promise never settles");
            return false;
        }
        JSValue which = js_int32(id);
        JSValue result = id < 0 ? call_prelude("runTimer", 0, NULL) : call_prelude("opDone", 1, vc(&which));
        if (JS_IsException(result)) {
            fail_pending(FAIL_THROWN);
            return false;
        }
        JS_FreeValue(ctx, result);
    }
}

static void finish_with(JSValueConst result)
{
    if (JS_IsUndefined(result))
        return host_finish("null", 4);
    JSValue json = JS_JSONStringify(ctx, result, JS_UNDEFINED, JS_UNDEFINED);
    if (JS_IsException(json))
        return fail_pending(FAIL_NOT_JSON);
    if (JS_IsUndefined(json))
        return fail_text(FAIL_NOT_JSON, "TypeError", "the lambda returned a function or a symbol, which JSON cannot hold");
    size_t len;
    const char *text = JS_ToCStringLen(ctx, &len, json);
    if (!text)
        return fail_pending(FAIL_THROWN);
    /* JSON has escapes for them, but what JSON.rawJSON holds is written as it is. A text that is not ASCII is a copy. */
    replace_lone_surrogates((uint8_t *)text, len);
    host_finish(text, len);
}

EXPORT("run") void guest_run(size_t event_len, size_t context_len, size_t env_len)
{
    running = true;
    host_random(&ctx->random_state, sizeof(ctx->random_state));
    ctx->random_state |= 1; /* xorshift stays at zero for ever */

    JSValue args[4] = {lambda, JS_UNDEFINED, JS_UNDEFINED, JS_UNDEFINED};
    size_t len[3] = {event_len, context_len, env_len};
    for (int i = 0; i < 3; i++) {
        args[i + 1] = parse_input(i, len[i]);
        if (JS_IsException(args[i + 1]))
            return fail_pending(FAIL_THROWN);
    }
    JSValue result = call_prelude("invoke", 4, vc(args));
    if (JS_IsException(result))
        return fail_pending(FAIL_THROWN);
    if (JS_IsPromise(result)) {
        if (!settle(result))
            return;
        JSPromiseStateEnum state = JS_PromiseState(ctx, result);
        JSValue value = JS_PromiseResult(ctx, result);
        if (state == JS_PROMISE_REJECTED)
            return fail_with(FAIL_THROWN, value);
        result = value;
    } else {
        report_rejections(JS_UNDEFINED);
    }
    JSValue checked = call_prelude("onResult", 1, vc(&result));
    if (JS_IsException(checked))
        JS_FreeValue(ctx, JS_GetException(ctx));
    finish_with(result);
}
