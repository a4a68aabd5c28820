//! The toolbelt's HTTPClient: the calling style of request-promise.

use serde_json::{Value, json};

use crate::toolbelt::{Scripted, header, response};

/// Answers with the request as JSON; paths that begin with digits with that status.
fn echo() -> std::sync::Arc<Scripted> {
    Scripted::http(|request| {
        let path = request.url.split("example/").nth(1).unwrap_or_default();
        let status = path.get(..3).and_then(|status| status.parse().ok()).unwrap_or(200);
        let body = request.body.as_ref().map(|body| String::from_utf8_lossy(body).into_owned());
        response(status, json!({"method": request.method, "url": request.url, "body": body}).to_string())
    })
}

#[tokio::test]
async fn the_calling_styles() {
    let host = echo();
    let result = host
        .returns(
            "const client = Toolbelt.HTTPClient();
             const url = 'https://crm.example/a';
             const answers = [
               await client(url),
               await client(url, { method: 'put', json: true }),
               await HTTPClient({ uri: url, json: true }),
               await client({ url: new URL(url), method: 'POST', json: { a: 1 } }),
               await client.post(url, { body: 'text' }),
               await client.del(url),
               await client.get({ baseUrl: 'https://crm.example/v1/', uri: '/a', json: true }),
               await client.defaults({ headers: { 'x-a': '1' }, json: true }).patch(url, { headers: { 'x-b': '2' } }),
               await client.head(url, { json: true }),
             ];
             return answers.map((it) => typeof it === 'string' ? JSON.parse(it) : it);",
        )
        .await;
    let methods: Vec<_> = result.as_array().unwrap().iter().map(|it| it["method"].clone()).collect();
    assert_eq!(
        methods,
        [
            json!("GET"),
            json!("PUT"),
            json!("GET"),
            json!("POST"),
            json!("POST"),
            json!("DELETE"),
            json!("GET"),
            json!("PATCH"),
            Value::Null,
        ]
    );
    assert_eq!(result[3]["body"], r#"{"a":1}"#);
    assert_eq!(result[4]["body"], "text");
    assert_eq!(result[6]["url"], "https://crm.example/v1/a");
    assert_eq!(result[8], json!({"content-type": "application/json"}), "a HEAD gives the headers");
    let requests = host.requests();
    assert_eq!(
        (header(&requests[3], "content-type"), header(&requests[3], "accept")),
        (Some("application/json"), Some("application/json"))
    );
    assert_eq!((header(&requests[7], "x-a"), header(&requests[7], "x-b")), (Some("1"), Some("2")));
}

#[tokio::test]
async fn queries_forms_and_credentials() {
    let host = echo();
    host.returns(
        "const url = 'https://crm.example/?keep=%2F&a=old';
         await HTTPClient(url, { qs: { a: 'ä b', list: [1, 'x'], deep: { er: true }, none: undefined, nil: null } });
         await HTTPClient(url, { qs: { list: [1, 2] }, useQuerystring: true });
         await HTTPClient.post(url, { form: { a: \"it's\", b: [1] } });
         await HTTPClient.post(url, { form: 'a=1', headers: { 'Content-Type': 'text/x' } });
         await HTTPClient(url, { auth: { user: 'ü', pass: 'p:w' } });
         await HTTPClient(url, { auth: { bearer: () => 'token' } });
         await HTTPClient(url, { auth: { username: 'u', password: 'p' }, headers: { authorization: 'mine' } });",
    )
    .await;
    let requests = host.requests();
    assert_eq!(
        requests[0].url,
        "https://crm.example/?keep=%2F&a=%C3%A4%20b&list[0]=1&list[1]=x&deep[er]=true&nil="
            .replace('[', "%5B")
            .replace(']', "%5D")
    );
    assert_eq!(requests[1].url, "https://crm.example/?keep=%2F&a=old&list=1&list=2");
    assert_eq!(requests[2].body.as_deref(), Some(&b"a=it%27s&b%5B0%5D=1"[..]));
    assert_eq!(header(&requests[2], "content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(
        (requests[3].body.as_deref(), header(&requests[3], "content-type")),
        (Some(&b"a=1"[..]), Some("text/x"))
    );
    assert_eq!(header(&requests[4], "authorization"), Some("Basic w7w6cDp3"));
    assert_eq!(header(&requests[5], "authorization"), Some("Bearer token"));
    assert_eq!(header(&requests[6], "authorization"), Some("mine"));
}

#[tokio::test]
async fn statuses_and_responses() {
    let host = echo();
    let result = host
        .returns(
            "const shown = ({ name, statusCode, message, error, response }) =>
               ({ name, statusCode, message: message.slice(0, 6), method: error.method, status: response?.statusCode });
             const failed = await HTTPClient('https://crm.example/404', { json: true }).catch(shown);
             const simple = await HTTPClient('https://crm.example/500', { simple: false, json: true });
             const full = await HTTPClient('https://crm.example/201', { resolveWithFullResponse: true });
             const transformed = await HTTPClient('https://crm.example/', { json: true, transform: (body, { statusCode }) => [body.method, statusCode] });
             const broken = await HTTPClient('https://crm.example/', { transform: () => { throw new Error('mine') } }).catch(({ name, message }) => [name, message]);
             const text = await HTTPClient('https://crm.example/');
             const bytes = await HTTPClient('https://crm.example/', { encoding: null });
             return { failed, simple: simple.method, full: [full.statusCode, full.headers['content-type'], typeof full.body, full.request.method], transformed, broken, text: typeof text, bytes: bytes instanceof Uint8Array };",
        )
        .await;
    assert_eq!(
        result,
        json!({
            "failed": {"name": "StatusCodeError", "statusCode": 404, "message": "404 - ", "method": "GET", "status": 404},
            "simple": "GET",
            "full": [201, "application/json", "string", "GET"],
            "transformed": ["GET", 200],
            "broken": ["TransformError", "Error: mine"],
            "text": "string",
            "bytes": true,
        })
    );
}

#[tokio::test]
async fn redirects_follow_the_method() {
    let host = echo();
    host.returns(
        "const url = 'https://crm.example/';
         await HTTPClient.get(url);
         await HTTPClient.get(url, { followRedirect: false });
         await HTTPClient.post(url);
         await HTTPClient.post(url, { followAllRedirects: true });",
    )
    .await;
    let modes: Vec<_> = host.requests().iter().map(|request| format!("{:?}", request.redirect)).collect();
    assert_eq!(modes, ["Follow", "Manual", "Manual", "Follow"]);
}

#[tokio::test]
async fn what_comes_to_nothing_is_a_request_error() {
    let silent = Scripted::new(|_| None);
    let result = silent
        .returns(
            "const shown = ({ name, code, message, cause }) => [name, code ?? null, message, cause instanceof Error];
             return [
               await HTTPClient('https://crm.example/', { timeout: 20 }).catch(shown),
               await HTTPClient('crm').catch(shown),
               await HTTPClient({}).catch(shown),
               await HTTPClient.post('https://crm.example/', { body: { a: 1 } }).catch(shown),
             ];",
        )
        .await;
    assert_eq!(
        result[0],
        json!(["RequestError", "ESOCKETTIMEDOUT", "Error: ESOCKETTIMEDOUT: no answer within 20 ms", true])
    );
    assert_eq!(result[1][0], "RequestError");
    assert_eq!(result[2][2], "Error: options.uri is a required argument");
    assert!(result[3][2].as_str().unwrap().contains("use json: true"), "{result}");
}

#[tokio::test]
async fn options_that_are_not_offered_are_named() {
    let host = echo();
    let result = host
        .returns(
            "const messages = [];
             for (const options of [{ proxy: 'http://p' }, { strictSSL: false }, { agent: {} }, { cert: 'x' }, { jar: true }, { formData: {} }, { maxRedirects: 3 }]) {
               await HTTPClient('https://crm.example/', options).catch((error) => messages.push([Object.keys(options)[0], error.code, error.message]));
             }
             await HTTPClient('https://crm.example/', { gzip: true, strictSSL: true, jar: false, time: true }, () => {}).catch((error) => messages.push(['callback', error.code, error.message]));
             return messages;",
        )
        .await;
    let errors = result.as_array().unwrap();
    assert_eq!(errors.len(), 8, "{result}");
    for error in errors {
        assert_eq!(error[1], "com.liveperson.faas.toolbelt.not-offered");
        assert!(
            error[2].as_str().unwrap().contains(&format!("the option {}", error[0].as_str().unwrap())),
            "{error}"
        );
    }
    assert!(host.requests().is_empty());
    assert!(
        !host
            .returns("return HTTPClient('https://crm.example/', { gzip: true, strictSSL: true })")
            .await
            .is_null()
    );
}
