//! Pages of a list: how large they get, and the tokens that lead to the next one.

use futures_util::{Stream, TryStreamExt as _};
use prost::Message;
use uuid::Uuid;

use crate::error::RegistryError;

/// Items of a page whose size is not given.
const DEFAULT_SIZE: usize = 50;

/// Most bytes of a page's items. One item has less than 2 MiB (a source of 100,000 characters and an
/// environment of 64 × 4,096 ones), and a message at most 4 MiB.
const MAX_BYTES: usize = 2 * 1024 * 1024;

/// One page of a list.
#[derive(Debug)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// Token of the next page; empty after the last.
    pub(crate) next_token: String,
}

/// What a list is a list of: its name, its parent and its filter. A token holds for that only.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ListKey<'a>(pub(crate) &'a [&'a str]);

impl ListKey<'_> {
    /// A token that says to go on after `position`. Opaque, but no secret: it gives no access to anything
    /// that the request without it does not give.
    pub(crate) fn token(self, position: &str) -> String {
        format!("{}{}", self.seal(position).simple(), hex::encode(position))
    }

    /// The position of a token that this list gave out; `None` for the empty token of the first page.
    pub(crate) fn position(self, token: &str) -> Result<Option<String>, RegistryError> {
        if token.is_empty() {
            return Ok(None);
        }
        let read = || {
            let (seal, position) = token.split_at_checked(32)?;
            let position = String::from_utf8(hex::decode(position).ok()?).ok()?;
            (seal == self.seal(&position).simple().to_string()).then_some(position)
        };
        read().map(Some).ok_or(RegistryError::InvalidPageToken)
    }

    fn seal(self, position: &str) -> Uuid {
        let mut bytes = Vec::new();
        for part in self.0.iter().chain([&position]) {
            // The length keeps the parts apart.
            bytes.extend((part.len() as u64).to_be_bytes());
            bytes.extend(part.as_bytes());
        }
        Uuid::new_v5(&Uuid::NAMESPACE_OID, &bytes)
    }
}

/// Fills a page with `size` of the `items` (0: 50), or fewer when they are large. `position` tells where in
/// the list an item lies.
pub(crate) async fn fill<T: Message>(
    key: ListKey<'_>,
    size: i32,
    items: impl Stream<Item = sqlx::Result<T>>,
    position: impl Fn(&T) -> String,
) -> Result<Page<T>, RegistryError> {
    let size = match usize::try_from(size) {
        Ok(size) if size > 0 => size,
        _ => DEFAULT_SIZE,
    };
    let mut stream = std::pin::pin!(items);
    let mut page = Page { items: Vec::new(), next_token: String::new() };
    let mut bytes = 0;
    while let Some(item) = stream.try_next().await? {
        bytes += item.encoded_len();
        let is_full = page.items.len() == size || bytes > MAX_BYTES;
        match page.items.last() {
            Some(last) if is_full => {
                page.next_token = key.token(&position(last));
                break;
            }
            _ => page.items.push(item),
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    const KEY: ListKey<'static> = ListKey(&["functions", "accounts/acme", ""]);

    async fn page(size: i32, lengths: &[usize]) -> Page<String> {
        let items = lengths.iter().enumerate().map(|(at, length)| Ok(format!("{at}{}", "x".repeat(*length))));
        fill(KEY, size, stream::iter(items), |item| item.trim_end_matches('x').to_owned()).await.unwrap()
    }

    #[test]
    fn a_token_leads_back_to_its_position() {
        let token = KEY.token("chat.start");
        assert_eq!(KEY.position(&token).unwrap().as_deref(), Some("chat.start"));
        assert_eq!(KEY.position("").unwrap(), None);
    }

    #[test]
    fn a_token_of_another_list_or_a_changed_one_is_refused() {
        let token = KEY.token("chat.start");
        let other = ListKey(&["functions", "accounts/acm", "e"]);
        assert!(other.position(&token).is_err());
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            assert!(KEY.position(&String::from_utf8(changed).unwrap()).is_err(), "byte {at}");
        }
        for bad in ["x", "ääääääääääääääää", &token[..40], &format!("{token}0"), &format!("{token}00")]
        {
            assert!(KEY.position(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_page_ends_at_its_size() {
        let first = page(2, &[1, 1, 1]).await;
        assert_eq!(first.items.len(), 2);
        assert_eq!(KEY.position(&first.next_token).unwrap().as_deref(), Some("1"));
        assert_eq!(page(3, &[1, 1, 1]).await.next_token, "");
        assert_eq!(page(0, &[1; 60]).await.items.len(), DEFAULT_SIZE);
    }

    #[tokio::test]
    async fn large_items_make_pages_short_but_never_empty() {
        let page = page(10, &[MAX_BYTES / 2, MAX_BYTES / 2, 1]).await;
        assert_eq!(page.items.len(), 1);
        assert_ne!(page.next_token, "");
    }
}
