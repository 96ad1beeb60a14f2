//! `#[derive(Redact)]`: what redaction does to a record stands beside the field.
//!
//! A field of numbers needs no attribute: `Redact` is implemented for them, and for what is made of them.
//! It is not implemented for text, so a new text field compiles only with one of
//!
//! - `#[redact(link)]`: each text in the field becomes what `Names::link` returns for it, or any other method of `Names`;
//! - `#[redact(with = "path")]`: the function `path(&Names, &mut Field)` redacts it.
#![forbid(unsafe_code)]

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{Data, DeriveInput, Field, Fields, Ident, LitStr, Path, parse_macro_input};

/// Implements `crate::redact::field::Redact`.
#[proc_macro_derive(Redact, attributes(redact))]
pub fn redact(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}

fn expand(input: &DeriveInput) -> syn::Result<TokenStream> {
    let name = &input.ident;
    let arms = match &input.data {
        Data::Struct(data) => vec![arm(&quote!(Self), &data.fields)?],
        Data::Enum(data) => data
            .variants
            .iter()
            .map(|variant| {
                let ident = &variant.ident;
                arm(&quote!(Self::#ident), &variant.fields)
            })
            .collect::<syn::Result<_>>()?,
        Data::Union(_) => return Err(syn::Error::new_spanned(name, "a union has no fields to redact")),
    };
    let (generics, arguments, bounds) = input.generics.split_for_impl();
    Ok(quote! {
        impl #generics crate::redact::field::Redact for #name #arguments #bounds {
            fn redact(&mut self, names: &crate::redact::field::Names) {
                match self {
                    #(#arms)*
                }
                // A structure without fields has nothing to do with them.
                let _ = names;
            }
        }
    })
}

/// The arm of a match that takes all fields and redacts each.
fn arm(path: &TokenStream, fields: &Fields) -> syn::Result<TokenStream> {
    let bindings: Vec<Ident> = (0..fields.len()).map(|i| format_ident!("field_{i}")).collect();
    let calls: Vec<TokenStream> =
        fields.iter().zip(&bindings).map(|(field, binding)| call(field, binding)).collect::<syn::Result<_>>()?;
    let pattern = match fields {
        Fields::Named(named) => {
            let idents = named.named.iter().map(|field| &field.ident);
            quote!(#path { #(#idents: #bindings),* })
        }
        Fields::Unnamed(_) => quote!(#path(#(#bindings),*)),
        Fields::Unit => quote!(#path),
    };
    Ok(quote!(#pattern => { #(#calls)* }))
}

fn call(field: &Field, binding: &Ident) -> syn::Result<TokenStream> {
    let mut call = quote!(crate::redact::field::Redact::redact(#binding, names););
    for attribute in field.attrs.iter().filter(|a| a.path().is_ident("redact")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("with") {
                let function: Path = meta.value()?.parse::<LitStr>()?.parse()?;
                call = quote!(#function(names, #binding););
            } else {
                let method = meta.path.require_ident()?;
                call = quote!(crate::redact::field::Texts::each(#binding, &mut |text| *text = names.#method(text)););
            }
            Ok(())
        })?;
    }
    Ok(call)
}
