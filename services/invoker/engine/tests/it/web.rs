//! The web-standard globals.

use std::sync::Arc;

use chatfn_engine::{FetchResponse, Host, HostOp, OpError, OpResult};
use futures_util::future::BoxFuture;
use serde_json::json;

use crate::support::{PATIENCE, call_of, messages, result, returned, run};

async fn eval(body: &str) -> serde_json::Value {
    result(&format!("async function lambda() {{ {body} }}"), "null").await
}

#[tokio::test]
async fn every_promised_global_exists() {
    let functions = "fetch Headers Request Response URL URLSearchParams TextEncoder TextDecoder structuredClone setTimeout \
        setInterval clearTimeout clearInterval setImmediate clearImmediate queueMicrotask atob btoa AbortController AbortSignal \
        Event CustomEvent EventTarget DOMException Blob Buffer require CryptoKey \
        performance.now crypto.randomUUID crypto.getRandomValues crypto.subtle.digest crypto.subtle.sign crypto.subtle.verify \
        crypto.subtle.importKey crypto.subtle.exportKey crypto.subtle.generateKey crypto.subtle.encrypt URL.canParse URL.parse \
        AbortSignal.abort AbortSignal.timeout AbortSignal.any Response.json console.debug console.info console.log console.warn \
        console.error console.table console.trace console.assert console.time console.count console.group \
        process.nextTick process.hrtime process.cwd Intl.DateTimeFormat Intl.NumberFormat Intl.PluralRules \
        Intl.RelativeTimeFormat Intl.ListFormat Intl.Locale Intl.getCanonicalLocales Date.prototype.toLocaleString \
        Number.prototype.toLocaleString BigInt.prototype.toLocaleString String.prototype.localeCompare \
        Promise.withResolvers Array.fromAsync Object.groupBy Array.prototype.toSorted Iterator.from Set.prototype.union \
        Uint8Array.fromBase64 WeakRef FinalizationRegistry Proxy Reflect.ownKeys BigInt";
    for name in functions.split_whitespace() {
        let kind = eval(&format!("return typeof globalThis.{name}")).await;
        assert_eq!(kind, "function", "{name}");
    }
    for name in [
        "globalThis",
        "global",
        "process",
        "process.env",
        "console",
        "crypto",
        "crypto.subtle",
        "performance",
        "Intl",
    ] {
        assert_eq!(eval(&format!("return typeof {name}")).await, "object", "{name}");
    }
}

#[tokio::test]
async fn urls_are_those_of_the_standard() {
    let body = r"const parts = (url) => [url.href, url.origin, url.host, url.pathname, url.search, url.hash];
      const changed = new URL('http://user:pw@example.com:80/a/./b/../c?x=1#y'); changed.port = '8080'; changed.pathname = '/ü'; changed.hash = ''; changed.searchParams.set('x', 'a b&c');
      const fails = (url, base) => { try { return new URL(url, base).href } catch (error) { return [error.name, error.code] } };
      return {
        parsed: parts(new URL('HTTPS://EXAMPLE.com:443/a/../b?q#h')), changed: changed.href, relative: new URL('../x?y', 'https://a.com/b/c/d').href,
        idn: new URL('https://münchen.example/').hostname, v4: new URL('http://0x7f.1/').hostname, v6: new URL('http://[::FFFF:1.2.3.4]:81/').host,
        data: new URL('data:text/plain,hi').pathname, file: new URL('file:///C:/x').href,
        fails: [fails('no url'), fails('/x'), fails('http://a b/'), fails('http://[::1')],
        can: [URL.canParse('a:b'), URL.canParse('/x'), URL.canParse('/x', 'https://a.b'), URL.parse('/x'), URL.parse('x', 'https://a.b/').href],
        json: JSON.stringify({ url: new URL('https://a.b') }), text: `${new URL('https://a.b/?a#b')}`,
      }";
    assert_eq!(
        eval(body).await,
        json!({
            "parsed": ["https://example.com/b?q#h", "https://example.com", "example.com", "/b", "?q", "#h"],
            "changed": "http://user:pw@example.com:8080/%C3%BC?x=a+b%26c", "relative": "https://a.com/b/x?y",
            "idn": "xn--mnchen-3ya.example", "v4": "127.0.0.1", "v6": "[::ffff:102:304]:81", "data": "text/plain,hi", "file": "file:///C:/x",
            "fails": [["TypeError", "ERR_INVALID_URL"], ["TypeError", "ERR_INVALID_URL"], ["TypeError", "ERR_INVALID_URL"], ["TypeError", "ERR_INVALID_URL"]],
            "can": [true, false, true, null, "https://a.b/x"], "json": r#"{"url":"https://a.b/"}"#, "text": "https://a.b/?a#b",
        })
    );
}

#[tokio::test]
async fn lone_surrogates_in_urls_are_replaced() {
    let body = r"const url = new URL('https://a.test/\ud800?x#y'); const made = url.href;
      url.pathname = '/\udfffp'; url.search = 'q\ud800'; url.hash = '\ud800h'; url.username = '\ud800';
      const set = url.href; url.href = 'https://b.test/\ud800';
      return [made, set, url.href, new URL('\ud800', 'https://a.test/').href, URL.canParse('https://a.test/\ud800'),
        new URL('https://a.test/?q=🦀').search, new Request('https://a.test/\ud800').url]";
    assert_eq!(
        eval(body).await,
        json!([
            "https://a.test/%EF%BF%BD?x#y",
            "https://%EF%BF%BD@a.test/%EF%BF%BDp?q%EF%BF%BD#%EF%BF%BDh",
            "https://b.test/%EF%BF%BD",
            "https://a.test/%EF%BF%BD",
            true,
            "?q=%F0%9F%A6%80",
            "https://a.test/%EF%BF%BD"
        ])
    );
}

#[tokio::test]
async fn search_params_are_those_of_the_standard() {
    let body = r"const params = new URLSearchParams('?a=1&b=2&a=3&c=%20+%F0%9F%A6%80&d');
      const changed = new URLSearchParams(params); changed.append('e', '~*()'); changed.delete('a', '1'); changed.sort();
      return [params.getAll('a'), params.get('c'), params.get('d'), params.get('x'), params.has('a', '3'), params.has('a', '9'), params.size, changed.toString(),
        new URLSearchParams({ x: 'ä', y: '\ud800' }).toString(), new URLSearchParams([['q', '1'], ['q', '2']]).toString(), [...new URLSearchParams('a=b').entries()], Object.fromEntries(new URLSearchParams('%zz=%'))]";
    assert_eq!(
        eval(body).await,
        json!([
            ["1", "3"], "  🦀", "", null, true, false, 5, "a=3&b=2&c=++%F0%9F%A6%80&d=&e=%7E*%28%29", "x=%C3%A4&y=%EF%BF%BD", "q=1&q=2", [["a", "b"]], {"%zz": "%"}
        ])
    );
}

#[tokio::test]
async fn headers_join_sort_and_refuse() {
    let body = r"const headers = new Headers([['B', ' 2 '], ['a', '1']]); headers.append('b', '3'); headers.append('Set-Cookie', 'x=1, y'); headers.append('set-cookie', 'z=2');
      const fails = (call) => { try { call(); return 'passed' } catch (error) { return error.name } };
      return [[...headers], headers.get('B'), headers.getSetCookie(), headers.has('c'), new Headers({ 'x-n': 5 }).get('X-N'), [...new Headers(headers).keys()],
        fails(() => headers.set('bad name', 'x')), fails(() => headers.set('a', 'x\r\ny: z')), fails(() => headers.append('ü', '1')), fails(() => headers.set('a', '\u20ac')), (headers.delete('b'), headers.get('b'))]";
    assert_eq!(
        eval(body).await,
        json!([
            [["a", "1"], ["b", "2, 3"], ["set-cookie", "x=1, y"], ["set-cookie", "z=2"]],
            "2, 3",
            ["x=1, y", "z=2"],
            false,
            "5",
            ["a", "b", "set-cookie", "set-cookie"],
            "TypeError",
            "TypeError",
            "TypeError",
            "TypeError",
            null
        ])
    );
}

#[tokio::test]
async fn requests_and_responses_hold_whole_bodies() {
    let body = r"const response = new Response('grüß', { status: 201, headers: { 'X-A': 'b' } }); const copy = response.clone();
      const request = new Request('https://a.test/x', { method: 'post', body: new URLSearchParams({ a: 'b c' }) });
      const fails = async (call) => { try { return await call() } catch (error) { return error.name } };
      const blob = new Blob(['a', new Uint8Array([98]), new Blob(['c'])], { type: 'Text/Plain' });
      return {
        response: [response.ok, response.status, await response.text(), response.bodyUsed, await copy.arrayBuffer().then((it) => it.byteLength), copy.headers.get('content-type')],
        request: [request.method, request.url, request.headers.get('content-type'), await request.clone().text(), await request.text()],
        twice: await fails(() => response.text()), json: await Response.json({ a: 1 }, { status: 202 }).json(), broken: await fails(() => new Response('{').json()),
        bytes: await new Response(new Uint8Array([1, 2, 3]).subarray(1)).bytes().then((it) => [...it]), bom: await new Response('\ufeffx').text(),
        blob: [blob.size, blob.type, await blob.text(), await blob.slice(1, 2).text(), (await new Response(blob).blob()).type, await new Response(blob).text()],
        no: [await fails(() => new Response('').formData()), await fails(() => new FormData()), await fails(() => new Response('x', { status: 204 })), await fails(() => new Request('https://a.test', { body: 'x' })), await fails(() => new Request('/relative')), await fails(() => new Request('https://a.test', { method: 'TRACE' }))],
        redirect: [Response.redirect('https://a.test/y', 307).headers.get('location'), Response.redirect('https://a.test').status],
      }";
    assert_eq!(
        eval(body).await,
        json!({
            "response": [true, 201, "grüß", true, 6, "text/plain;charset=UTF-8"],
            "request": ["POST", "https://a.test/x", "application/x-www-form-urlencoded;charset=UTF-8", "a=b+c", "a=b+c"],
            "twice": "TypeError", "json": {"a": 1}, "broken": "SyntaxError", "bytes": [2, 3], "bom": "x",
            "blob": [3, "text/plain", "abc", "b", "text/plain", "abc"],
            "no": ["NotSupportedError", "NotSupportedError", "TypeError", "TypeError", "TypeError", "TypeError"],
            "redirect": ["https://a.test/y", 302],
        })
    );
}

#[tokio::test]
async fn text_is_encoded_and_decoded() {
    let body = r"const decode = (bytes, options) => { try { return new TextDecoder('utf-8', options).decode(new Uint8Array(bytes)) } catch (error) { return error.name } };
      const stream = new TextDecoder(); const target = new Uint8Array(4);
      const fails = (call) => { try { return call() } catch (error) { return error.name } };
      return [[...new TextEncoder().encode('€\ud800')], decode([0xe2, 0x82, 0xac]), decode([0x61, 0xff, 0xc3]), decode([0xff], { fatal: true }), decode([0xef, 0xbb, 0xbf, 0x61]), decode([0xef, 0xbb, 0xbf, 0x61], { ignoreBOM: true }).length,
        stream.decode(new Uint8Array([0xe2, 0x82]), { stream: true }) + stream.decode(new Uint8Array([0xac])), [new TextEncoder().encodeInto('aé€', target).read, [...target]],
        fails(() => new TextDecoder('latin1')), btoa('\xff'), atob(' aG k= '), fails(() => btoa('€')), fails(() => atob('a'))]";
    assert_eq!(
        eval(body).await,
        json!([
            [226, 130, 172, 239, 191, 189],
            "€",
            "a\u{fffd}\u{fffd}",
            "TypeError",
            "a",
            2,
            "€",
            [2, [97, 195, 169, 0]],
            "RangeError",
            "/w==",
            "hi",
            "InvalidCharacterError",
            "InvalidCharacterError"
        ])
    );
}

#[tokio::test]
async fn structured_clones_keep_shape_and_refuse_functions() {
    let body = r"const it = { date: new Date(5), re: /a/gi, map: new Map([[{ k: 1 }, new Set([1])]]), buffer: new Uint8Array([1, 2]).subarray(1), error: new RangeError('no', { cause: 'c' }), big: 5n, undefined: undefined, list: [1, , 3] };
      it.self = it; it.again = it.date; const copy = structuredClone(it);
      const fails = (value) => { try { structuredClone(value); return 'passed' } catch (error) { return [error.name, error.code] } };
      return [copy !== it, copy.self === copy, copy.again === copy.date && copy.date !== it.date, copy.date.getTime(), String(copy.re), [...copy.map.keys()][0].k, [...copy.map.values()][0].has(1), [...copy.buffer], copy.buffer.buffer !== it.buffer.buffer,
        copy.error instanceof RangeError && copy.error.cause, copy.big === 5n, 'undefined' in copy, 1 in copy.list, fails(() => {}), fails({ a: Symbol('x') }), fails(Promise.resolve())[0]]";
    assert_eq!(
        eval(body).await,
        json!([
            true,
            true,
            true,
            5,
            "/a/gi",
            1,
            true,
            [2],
            true,
            "c",
            true,
            true,
            false,
            ["DataCloneError", 25],
            ["DataCloneError", 25],
            "DataCloneError"
        ])
    );
}

#[tokio::test]
async fn structured_clones_have_every_own_property_and_refuse_what_they_cannot_hold() {
    let body = r#"const copy = structuredClone(JSON.parse('{"__proto__":{"admin":true},"a":1}'));
      Object.defineProperty(Object.prototype, 'trap', { set() { throw new Error('called') }, configurable: true });
      const trap = structuredClone(JSON.parse('{"trap":1}')); delete Object.prototype.trap;
      const fails = (value) => { try { structuredClone({ value }); return 'passed' } catch (error) { return error.name } };
      const opaque = [new Blob(['x']), new URL('https://a.test'), new URLSearchParams('a=1'), new Headers(), new Request('https://a.test'), new Response('x'),
        new AbortController(), AbortSignal.abort(), new EventTarget(), new WeakMap()];
      return [copy.admin, Object.getPrototypeOf(copy) === Object.prototype, Object.entries(copy), Object.entries(trap), [...new Set(opaque.map(fails))]]"#;
    assert_eq!(
        eval(body).await,
        json!([null, true, [["__proto__", {"admin": true}], ["a", 1]], [["trap", 1]], ["DataCloneError"]])
    );
}

#[tokio::test]
async fn events_and_abort_signals_do_as_the_standard_says() {
    let body = r"const target = new EventTarget(); const seen = []; const controller = new AbortController();
      target.addEventListener('x', () => seen.push('once'), { once: true });
      target.addEventListener('x', { handleEvent: (event) => seen.push(event.detail) });
      target.addEventListener('x', () => seen.push('gone'), { signal: controller.signal });
      const removed = () => seen.push('never'); target.addEventListener('x', removed); target.removeEventListener('x', removed);
      controller.abort(); target.dispatchEvent(new CustomEvent('x', { detail: 1 })); target.dispatchEvent(new CustomEvent('x', { detail: 2 }));
      target.addEventListener('y', (event) => { event.preventDefault(); event.stopImmediatePropagation() }); target.addEventListener('y', () => seen.push('stopped'));
      const first = new AbortController(); const any = AbortSignal.any([first.signal, AbortSignal.timeout(60000)]); let called = 0; any.onabort = () => called++; any.addEventListener('abort', () => called++);
      first.abort('why'); first.abort('again');
      const late = AbortSignal.timeout(1); await new Promise((resolve) => late.addEventListener('abort', resolve));
      const thrown = (() => { try { AbortSignal.abort().throwIfAborted() } catch (error) { return [error.name, error instanceof DOMException, error.code] } })();
      return [seen, target.dispatchEvent(new Event('y', { cancelable: true })), any.aborted, any.reason, called, late.reason.name, thrown, AbortSignal.any([AbortSignal.abort(7)]).reason]";
    assert_eq!(
        eval(body).await,
        json!([["once", 1, 2], false, true, "why", 2, "TimeoutError", ["AbortError", true, 20], 7])
    );
}

#[tokio::test]
async fn subtle_crypto_digests_and_signs() {
    // FIPS 180-2 "abc"; RFC 4231, test case 2.
    let body = r"const bytes = (text) => new TextEncoder().encode(text); const hex = (buffer) => Buffer.from(buffer).toString('hex');
      const fails = async (promise) => { try { await promise; return 'passed' } catch (error) { return error.name } };
      const { subtle } = crypto; const algorithm = { name: 'HMAC', hash: 'SHA-256' };
      const key = await subtle.importKey('raw', bytes('Jefe'), algorithm, true, ['sign', 'verify']); const data = bytes('what do ya want for nothing?');
      const signature = await subtle.sign('HMAC', key, data); const jwk = await subtle.exportKey('jwk', key); const closed = await subtle.importKey('jwk', jwk, algorithm, false, ['sign']);
      const made = await subtle.generateKey({ name: 'HMAC', hash: 'SHA-512' }, true, ['sign']);
      return [hex(await subtle.digest('SHA-256', bytes('abc'))), hex(await subtle.digest({ name: 'sha-1' }, bytes('abc'))), hex(signature), await subtle.verify('HMAC', key, signature, data), await subtle.verify('HMAC', key, signature, bytes('else')),
        [jwk.kty, jwk.alg, jwk.k], hex(await subtle.sign(algorithm, closed, data)) === hex(signature), (await subtle.exportKey('raw', made)).byteLength,
        [await fails(subtle.exportKey('raw', closed)), await fails(subtle.verify('HMAC', closed, signature, data)), await fails(subtle.digest('MD5', data)), await fails(subtle.encrypt({ name: 'AES-GCM' }, key, data)), await fails(subtle.importKey('spki', data, { name: 'RSASSA-PKCS1-v1_5' }, false, ['verify'])), await fails(subtle.importKey('raw', data, algorithm, false, []))]]";
    assert_eq!(
        eval(body).await,
        json!([
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "a9993e364706816aba3e25717850c26c9cd0d89d",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            true,
            false,
            ["oct", "HS256", "SmVmZQ"],
            true,
            128,
            [
                "InvalidAccessError",
                "InvalidAccessError",
                "NotSupportedError",
                "NotSupportedError",
                "NotSupportedError",
                "SyntaxError"
            ]
        ])
    );
}

#[tokio::test]
async fn timers_run_in_order_between_microtasks() {
    let body = "const seen = []; const before = performance.now();
      const cleared = setTimeout(() => seen.push('cleared'), 1); clearTimeout(cleared);
      const late = new Promise((resolve) => setTimeout((a, b) => { seen.push(a + b); resolve() }, 5, 'la', 'te'));
      setTimeout(() => { seen.push('early'); queueMicrotask(() => seen.push('micro')); process.nextTick(() => seen.push('tick')) }, 1);
      await late; const waited = performance.now() - before;
      let ticks = 0;
      await new Promise((resolve) => { const interval = setInterval(() => { if (++ticks === 3) { clearInterval(interval); resolve() } }, 1) });
      await new Promise((resolve) => setTimeout(resolve, 5));
      return [seen, ticks, waited >= 5, await new Promise((resolve) => setImmediate(resolve, 'now'))]";
    assert_eq!(eval(body).await, json!([["early", "micro", "tick", "late"], 3, true, "now"]));
}

/// Answers each request with a redirect's end, in the encoding that its path names.
struct Pages;

impl Host for Pages {
    fn start(&self, op: HostOp) -> BoxFuture<'static, Result<OpResult, OpError>> {
        let HostOp::Fetch(request) = op else { panic!("{op:?} is no fetch") };
        Box::pin(async move {
            let status = if request.url.ends_with("/none") { 204 } else { 200 };
            Ok(OpResult::Fetch(FetchResponse {
                status,
                status_text: "Fine".to_owned(),
                url: request.url,
                redirected: true,
                headers: vec![
                    ("set-cookie".to_owned(), "a=1".to_owned()),
                    ("set-cookie".to_owned(), "b=2".to_owned()),
                    ("content-type".to_owned(), "text/html".to_owned()),
                ],
                body: request.body.unwrap_or_else(|| "<p>grüß".into()),
            }))
        })
    }
}

#[tokio::test]
async fn what_fetch_answers_can_be_read_in_every_way() {
    let source = r"async function lambda() {
      const get = (path = '', init) => fetch('https://a.test/' + path, init); const page = await get(); const none = await get('none');
      const echo = await get('', { method: 'PUT', body: new Blob(['x'], { type: 'text/csv' }) });
      const aborted = await fetch(new Request('https://a.test', { signal: AbortSignal.abort(new Error('mine')) })).catch((error) => error.message);
      console.log(page.statusText, [...page.headers].length);
      return [page.url, page.redirected, page.type, page.headers.getSetCookie(), await page.clone().text(), await page.bytes().then((it) => it.length), none.status, await none.text(), await echo.text(), aborted];
    }";
    let report = run(source, call_of("null", PATIENCE, Arc::new(Pages))).await;
    assert_eq!(
        returned(&report),
        json!(["https://a.test/", true, "basic", ["a=1", "b=2"], "<p>grüß", 9, 204, "", "x", "mine"])
    );
    assert_eq!(messages(&report.logs), ["Fine 3"]);
}
