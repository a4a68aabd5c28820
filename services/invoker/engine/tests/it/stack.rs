//! Deep nesting is an error of the lambda, never of the host.

use chatfn_engine::FailureKind;

use crate::support::{Slot, failure};

#[tokio::test]
async fn recursion_in_javascript_is_an_error_that_can_be_caught() {
    let slot = Slot::new().await;
    for code in [
        "const deeper = (n) => deeper(n + 1) + 1; deeper(0)",
        "const it = { toString() { return '' + this } }; String(it)",
        "const it = { get x() { return this.x } }; it.x",
        "const it = { set x(value) { this.x = value } }; it.x = 1",
        "const it = { [Symbol.toPrimitive]() { return +this } }; +it",
        "const it = { [Symbol.iterator]() { return [...this] } }; [...it]",
        "class It { constructor() { return Reflect.construct(It, []) } } new It()",
        "function* all() { yield* all() } [...all()]",
        "[3, 2, 1].sort(function compare() { [3, 2, 1].sort(compare) })",
        "'x'.replace(/x/, function again() { return 'x'.replace(/x/, again) })",
        "JSON.parse('[1]', function again() { return JSON.parse('[1]', again) })",
        "JSON.stringify({ toJSON() { return JSON.stringify(this) } })",
        "const proxy = new Proxy({}, { get: (_, key, self) => self[key] }); proxy.x",
        "let proxy = {}; for (let n = 0; n < 1e5; n++) proxy = new Proxy(proxy, {}); proxy.x",
        "let proxy = () => 1; for (let n = 0; n < 1e5; n++) proxy = new Proxy(proxy, {}); proxy()",
        "let proxy = []; for (let n = 0; n < 1e5; n++) proxy = new Proxy(proxy, {}); JSON.stringify(proxy)",
    ] {
        let body = format!("try {{ {code} }} catch (error) {{ return error instanceof RangeError }}");
        assert_eq!(slot.returns(&body).await, true, "{code}");
    }
}

#[tokio::test]
async fn regular_expressions_nest_as_deep_as_the_stack_allows() {
    let slot = Slot::new().await;
    for code in [
        "new RegExp('(?:'.repeat(1e6) + ')'.repeat(1e6))",
        "new RegExp('(?='.repeat(1e5) + ')'.repeat(1e5))",
        "new RegExp('('.repeat(1e5) + ')'.repeat(1e5))",
        "new RegExp('['.repeat(1e5) + 'a' + ']'.repeat(1e5), 'v')",
    ] {
        let body = format!("try {{ {code} }} catch (error) {{ return error instanceof SyntaxError }}");
        assert_eq!(slot.returns(&body).await, true, "{code}");
    }
}

/// Where QuickJS recurses in C without looking at its stack, WebAssembly's own limit ends the run.
#[tokio::test]
async fn nesting_in_built_in_functions_ends_the_run() {
    let slot = Slot::new().await;
    for body in [
        "return JSON.parse('['.repeat(1e6) + ']'.repeat(1e6))",
        "return JSON.parse('{\"a\":'.repeat(1e5) + '1' + '}'.repeat(1e5))",
        "let it = []; for (let n = 0; n < 5e4; n++) it = [it]; return it",
        "let it = {}; for (let n = 0; n < 1e5; n++) it = new Proxy(it, {}); delete it.x",
        "let it = {}; for (let n = 0; n < 1e5; n++) it = new Proxy(it, {}); Object.defineProperty(it, 'x', { value: 1 })",
    ] {
        let report = slot.fails(body, FailureKind::StackOverflow).await;
        assert!(failure(&report).message.contains("nested too deeply"), "{:?}", failure(&report));
    }
}

#[tokio::test]
async fn long_chains_that_do_not_nest_are_fine() {
    let slot = Slot::new().await;
    for code in [
        "let text = 'a'; for (let n = 0; n < 1e5; n++) text = text + 'b'; text.indexOf('ab')",
        "let it = {}; for (let n = 0; n < 1e5; n++) it = Object.create(it); it.x",
        "let it = null; for (let n = 0; n < 1e5; n++) it = { it }; it = null",
        "let it = new Promise(() => {}); for (let n = 0; n < 1e4; n++) { const last = it; it = new Promise((resolve) => resolve(last)) }",
        "JSON.parse('['.repeat(1000) + ']'.repeat(1000))",
    ] {
        assert_eq!(slot.returns(&format!("{code}; return true")).await, true, "{code}");
    }
}
