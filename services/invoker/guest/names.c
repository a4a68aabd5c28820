/* The names of variables. Once code is compiled they are of use to nobody but the author of a message about a variable that
 * is used before its declaration. The prelude, with its packages, has some thousands that nothing else is called, and each
 * would be looked at when a run looks for another name that has the same hash, on whatever page it lies. */

static void drop_variable_names(JSFunctionBytecode *function)
{
    for (int i = 0; i < function->arg_count + function->var_count; i++) {
        JS_FreeAtom(ctx, function->vardefs[i].var_name);
        function->vardefs[i].var_name = JS_ATOM_NULL;
    }
    for (int i = 0; i < function->closure_var_count; i++) {
        JSClosureVar *variable = &function->closure_var[i];
        if (variable->closure_type > JS_CLOSURE_REF) /* a global one, which is found by its name */
            continue;
        JS_FreeAtom(ctx, variable->var_name);
        variable->var_name = JS_ATOM_NULL;
    }
    for (int i = 0; i < function->cpool_count; i++)
        if (JS_VALUE_GET_TAG(function->cpool[i]) == JS_TAG_FUNCTION_BYTECODE)
            drop_variable_names(JS_VALUE_GET_PTR(function->cpool[i]));
}
