//! What a lambda does to the language's own objects is its own affair, and does not falsify its report.

use chatfn_engine::FailureKind;
use serde_json::json;

use crate::support::{Slot, call, messages, returned};

#[tokio::test]
async fn the_result_is_what_was_returned() {
    let slot = Slot::new().await;
    for pollution in [
        "JSON.stringify = JSON.parse = () => { throw new Error('polluted') }",
        "JSON.stringify = () => '\"forged\"'",
        "Object.keys = Object.freeze = Object.defineProperty = Object.entries = () => { throw new Error('polluted') }",
        "Array.prototype.map = Array.prototype.push = Array.prototype.join = () => { throw new Error('polluted') }",
        "Array.prototype[Symbol.iterator] = function* () { yield 'forged' }",
        "Map.prototype.set = Map.prototype.get = Map.prototype.values = () => { throw new Error('polluted') }",
        "String.prototype.slice = String.prototype.split = () => 'forged'",
        "Promise.prototype.then = () => { throw new Error('polluted') }",
        "Promise.prototype.then = function () { return this }; Promise.resolve = Promise.race = () => 'forged'",
        "globalThis.Promise = globalThis.Object = globalThis.JSON = globalThis.Error = class { then() {} }",
        "Object.defineProperty(Object.prototype, 'value', { get: () => 'forged', set() {} })",
        "Object.defineProperty(Object.prototype, '0', { get: () => 'forged', set() {} })",
        "const all = globalThis; for (const key of Reflect.ownKeys(all)) delete all[key]",
        "Object.prototype.type = 'transfer'; Object.prototype.commands = 1",
    ] {
        let source = format!("async function lambda() {{ {pollution}; return {{ a: [1, 'x'] }} }}");
        let report = slot.run(&source, call("1")).await;
        assert_eq!(returned(&report)["a"], json!([1, "x"]), "{pollution}");
    }
}

#[tokio::test]
async fn a_failure_stays_a_failure_of_its_kind() {
    let slot = Slot::new().await;
    for pollution in [
        "Array.prototype[Symbol.iterator] = function* () { throw new Error('polluted') }",
        "String.prototype.split = String.prototype.includes = () => { throw new Error('polluted') }",
        "Array.prototype.filter = Array.prototype.join = () => 7",
        "Object.defineProperty(Object.prototype, '1', { get: () => 'forged', set() {} })",
        "globalThis.Error = globalThis.TypeError = globalThis.String = globalThis.DOMException = undefined",
        "Map.prototype.set = Map.prototype.delete = () => { throw new Error('polluted') }",
        "Promise.prototype.then = Promise.reject = () => { throw new Error('polluted') }",
        "Object.prototype.kind = 0; Object.prototype.then = (resolve) => resolve('forged')",
        "Object.defineProperty(Function.prototype, 'call', { value: () => 'forged' })",
        "for (const key of Object.getOwnPropertyNames(Array.prototype)) if (key !== 'length') delete Array.prototype[key]",
    ] {
        // Whether it is told well is the lambda's affair; that it failed is not.
        slot.fails(&format!("{pollution}; null.x"), FailureKind::Thrown).await;
    }
    for (body, kind) in [
        ("JSON.stringify = () => '1'; return 10n", FailureKind::ResultNotJson),
        ("globalThis.Promise = Object; return { then() {} }", FailureKind::NeverSettles),
        (
            "globalThis.InternalError = Object; const all = []; while (true) all.push(new Uint8Array(1e6))",
            FailureKind::OutOfMemory,
        ),
    ] {
        slot.fails(body, kind).await;
    }
}

#[tokio::test]
async fn the_platforms_words_are_its_own() {
    let slot = Slot::new().await;
    // What is said of work left behind comes from what the platform knows of it.
    let source = "async function lambda() {
      Array.prototype[Symbol.iterator] = function* () { yield 'forged' };
      Array.prototype.map = () => ['forged'];
      Object.prototype.type = 'transfer';
      return { a: 1 };
    }";
    let report = slot.run(source, call("1")).await;
    assert!(report.logs.is_empty(), "{:?}", messages(&report.logs));
}

#[tokio::test]
async fn nothing_of_the_prelude_can_be_reached() {
    let slot = Slot::new().await;
    let body = "
      const found = [];
      const look = (value) => { if (typeof value === 'function') found.push(value.name || 'a function') };
      // Call sites would hand out the functions on the stack.
      Error.prepareStackTrace = (_, sites) => { for (const site of sites) { look(site.getFunction?.()) } return '' };
      const spy = function () { new Error('x').stack; look(spy.caller); return undefined };
      Object.defineProperty(Object.prototype, 'toJSON', { get: spy, configurable: true });
      Object.defineProperty(Object.prototype, 'signal', { get: spy, configurable: true });
      await fetch('https://a.test', { method: 'POST', body: 'x' }).catch(() => {});
      new URL('https://a.test').searchParams.append('a', { toString: () => { spy(); return 'x' } });
      console.log(new Proxy({}, { ownKeys() { spy(); return [] } }));
      await new Promise((resolve) => setTimeout(() => { spy(); resolve() }, 1));
      structuredClone({ get x() { spy(); return 1 } });
      delete Object.prototype.toJSON; delete Object.prototype.signal;
      return [found, typeof host, typeof chatfn];";
    let report = slot.run(&format!("async function lambda() {{ {body} }}"), call("1")).await;
    assert_eq!(returned(&report), json!([[], "undefined", "undefined"]));
}

#[tokio::test]
async fn an_authors_names_hide_nothing_of_the_prelude() {
    let slot = Slot::new().await;
    let source = "
      const { URL: U, Headers: H } = globalThis;
      const [Array, Boolean, Map, Object, Promise, Set, String, JSON, Number, Error, TypeError, Uint8Array, Symbol, Math, Date] = [];
      const [URL, URLSearchParams, Headers, Request, Response, DOMException, AbortSignal, Event, TextEncoder, TextDecoder, console2] = [];
      class Crypto {}
      async function lambda() {
        console.log('%o', { a: [1, 'x'] });
        const refused = await fetch('https://a.test/', { method: 'POST', body: 'x', headers: { a: 'b' } }).catch((error) => error.code);
        const aborted = new AbortController(); aborted.abort();
        const abort = await fetch('https://a.test/', { signal: aborted.signal }).catch((error) => error.name);
        await new globalThis.Promise((resolve) => setTimeout(resolve, 1));
        const url = new U('https://a.test/?a=1'); url.searchParams.append('b', '2');
        return [refused, abort, url.href, structuredClone({ a: new globalThis.Map([[1, 2]]) }).a.size, [...new H({ a: 'b' })].join()];
      }";
    let report = slot.run(source, call("1")).await;
    assert_eq!(
        returned(&report),
        json!(["EGRESS_FORBIDDEN", "AbortError", "https://a.test/?a=1&b=2", 1, "a,b"])
    );
    assert_eq!(messages(&report.logs), ["{ a: [ 1, 'x' ] }"]);
}
