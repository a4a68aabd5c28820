//! The JavaScript values that the module makes and takes through numbers, as far as it needs them: `wasm-bindgen` made it for
//! callers in JavaScript. An import that is not here traps.
//!
//! Values are never dropped: their number and size are bounded, and they go with the store.

use std::collections::HashMap;
use std::sync::Arc;

use wasmtime::{Caller, Extern, Linker, Module, Result};

use crate::prepared::PrepareError;
use crate::sandbox::{GuestFault, MemoryLimit};

const IMPORTS: &str = "__wbindgen_placeholder__";

/// The number of `undefined`.
pub(super) const UNDEFINED: u32 = 128;
/// Numbers below are not values that the module made.
const FIRST: u32 = 132;
/// More than one answer is made of.
const MAX_VALUES: usize = 256;
/// Several times the longest source, in bytes.
const MAX_TEXT: usize = 4 << 20;

#[derive(Debug, Clone)]
enum Value {
    Undefined,
    /// The source, which lies in the module's memory.
    Input {
        at: u32,
        length: u32,
    },
    Text(Arc<str>),
    Number(f64),
    /// The place among the objects.
    Object(usize),
}

/// The values of one use of the module.
#[derive(Debug)]
pub(super) struct Values {
    values: Vec<Value>,
    objects: Vec<HashMap<Arc<str>, Value>>,
    text_bytes: usize,
    pub(super) memory: MemoryLimit,
}

impl Values {
    pub(super) fn new(memory_bytes: usize) -> Self {
        let memory = MemoryLimit::new(memory_bytes);
        Self { values: Vec::new(), objects: Vec::new(), text_bytes: 0, memory }
    }

    /// The number of the source, of which the module becomes the owner.
    pub(super) fn input(&mut self, at: u32, length: u32) -> u32 {
        self.values.push(Value::Input { at, length });
        FIRST + (self.values.len() - 1) as u32
    }

    /// The JavaScript, of an answer.
    pub(super) fn code(&self, answer: u32) -> Result<String> {
        self.text(answer, "code").map(|text| text.to_string()).ok_or_else(|| fault("an answer without code"))
    }

    /// Why there is no JavaScript.
    pub(super) fn refusal(&self, error: u32) -> Result<PrepareError> {
        let message = self.text(error, "message").ok_or_else(|| fault("an error without a message"))?;
        let line = self.number(error, "startLine");
        let column = if line == 0 { 0 } else { self.number(error, "startColumn").saturating_add(1) };
        let message = match self.text(error, "code") {
            Some("UnsupportedSyntax") => format!(
                "{message}: it is more than a type, and only types can be erased; write it in JavaScript"
            ),
            _ => message.to_owned(),
        };
        Ok(PrepareError::Syntax { message, line, column })
    }

    fn field(&self, object: u32, name: &str) -> Option<&Value> {
        match self.get(object).ok()? {
            Value::Object(index) => self.objects.get(*index)?.get(name),
            _ => None,
        }
    }

    fn text(&self, object: u32, name: &str) -> Option<&str> {
        match self.field(object, name)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Zero if there is none.
    fn number(&self, object: u32, name: &str) -> u32 {
        match self.field(object, name) {
            Some(Value::Number(number)) => *number as u32,
            _ => 0,
        }
    }

    fn get(&self, number: u32) -> Result<&Value> {
        if number == UNDEFINED {
            return Ok(&Value::Undefined);
        }
        let index = number.checked_sub(FIRST).ok_or_else(|| fault("a value that is not one"))?;
        self.values.get(index as usize).ok_or_else(|| fault("a value that is not one"))
    }

    fn add(&mut self, value: Value) -> Result<u32> {
        if self.values.len() == MAX_VALUES {
            return Err(fault("too many values"));
        }
        self.values.push(value);
        Ok(FIRST + (self.values.len() - 1) as u32)
    }

    fn add_text(&mut self, text: &str) -> Result<u32> {
        self.text_bytes += text.len();
        if self.text_bytes > MAX_TEXT {
            return Err(fault("too much text"));
        }
        self.add(Value::Text(text.into()))
    }

    fn add_object(&mut self) -> Result<u32> {
        self.objects.push(HashMap::new());
        self.add(Value::Object(self.objects.len() - 1))
    }

    fn set(&mut self, object: u32, key: u32, value: u32) -> Result<()> {
        let (object, key, value) = (self.get(object)?, self.get(key)?, self.get(value)?.clone());
        let (Value::Object(index), Value::Text(key)) = (object, key) else {
            return Err(fault("a field of what has none"));
        };
        let (index, key) = (*index, key.clone());
        self.objects[index].insert(key, value);
        Ok(())
    }
}

/// What the module may call; the rest of what it imports is for uses that it is not put to.
pub(super) fn linker(engine: &wasmtime::Engine, module: &Module) -> Result<Linker<Values>> {
    let mut linker = Linker::new(engine);
    linker.func_wrap(IMPORTS, "__wbindgen_is_falsy", |caller: Caller<'_, Values>, value: u32| {
        caller.data().get(value).map(|value| i32::from(matches!(value, Value::Undefined)))
    })?;
    linker.func_wrap(IMPORTS, "__wbindgen_string_get", string_get)?;
    linker.func_wrap(
        IMPORTS,
        "__wbindgen_string_new",
        |mut caller: Caller<'_, Values>, at: u32, len: u32| {
            let (memory, values) = parts(&mut caller)?;
            let bytes = memory.get(at as usize..).and_then(|rest| rest.get(..len as usize));
            let text = bytes.and_then(|bytes| str::from_utf8(bytes).ok());
            values.add_text(text.ok_or_else(|| fault("a text that is not one"))?)
        },
    )?;
    linker.func_wrap(IMPORTS, "__wbindgen_number_new", |mut caller: Caller<'_, Values>, number: f64| {
        caller.data_mut().add(Value::Number(number))
    })?;
    linker.func_wrap(IMPORTS, "__wbg_new_405e22f390576ce2", |mut caller: Caller<'_, Values>| {
        caller.data_mut().add_object()
    })?;
    linker.func_wrap(
        IMPORTS,
        "__wbg_set_3f1d0b984ed272ed",
        |mut caller: Caller<'_, Values>, object: u32, key: u32, value: u32| {
            caller.data_mut().set(object, key, value)
        },
    )?;
    linker.func_wrap(
        IMPORTS,
        "__wbindgen_object_clone_ref",
        |mut caller: Caller<'_, Values>, value: u32| {
            let value = caller.data().get(value)?.clone();
            caller.data_mut().add(value)
        },
    )?;
    linker.func_wrap(IMPORTS, "__wbindgen_object_drop_ref", |_: Caller<'_, Values>, _: u32| {})?;
    linker.define_unknown_imports_as_traps(module)?;
    Ok(linker)
}

/// Writes place and length of a text to `to`, and zeros for what is none. Only the source is ever asked for.
fn string_get(mut caller: Caller<'_, Values>, to: u32, value: u32) -> Result<()> {
    let (at, length) = match caller.data().get(value)? {
        Value::Input { at, length } => (*at, *length),
        Value::Undefined => (0, 0),
        _ => return Err(fault("a text that was not to be asked for")),
    };
    let (memory, _) = parts(&mut caller)?;
    let target = memory.get_mut(to as usize..).and_then(|rest| rest.first_chunk_mut::<8>());
    let target = target.ok_or_else(|| fault("a pointer outside of its memory"))?;
    target[..4].copy_from_slice(&at.to_le_bytes());
    target[4..].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

fn parts<'a>(caller: &'a mut Caller<'_, Values>) -> Result<(&'a mut [u8], &'a mut Values)> {
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => Ok(memory.data_and_store_mut(caller)),
        _ => Err(fault("no memory")),
    }
}

fn fault(what: &'static str) -> wasmtime::Error {
    GuestFault(what).into()
}
