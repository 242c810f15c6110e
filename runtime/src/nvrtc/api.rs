//! The functions of NVRTC that packscan calls, bound by hand from a library that is already loaded.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use libloading::Library;

type Status = c_int;
type Handle = *mut c_void;

/// NVRTC's functions, with the types of `nvrtc.h`.
pub(super) struct Api {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status,
    error_string: unsafe extern "C" fn(Status) -> *const c_char,
    create: unsafe extern "C" fn(
        *mut Handle,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Status,
    compile: unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> Status,
    destroy: unsafe extern "C" fn(*mut Handle) -> Status,
    log: Text,
    ptx: Text,
    cubin: Text,
    /// Declared last: the functions above live in it.
    _library: Library,
}

/// A pair of functions that state a size and fill a buffer of that size.
struct Text {
    size: unsafe extern "C" fn(Handle, *mut usize) -> Status,
    copy: unsafe extern "C" fn(Handle, *mut c_char) -> Status,
}

/// Which result of a compilation to read.
#[derive(Clone, Copy)]
pub(super) enum Part {
    /// The log, a text.
    Log,
    /// PTX, a text.
    Ptx,
    /// Machine code.
    Cubin,
}

impl Api {
    /// Binds the functions; they stay loaded as long as the value lives.
    pub(super) fn bind(library: Library) -> Result<Self, libloading::Error> {
        // SAFETY: the names and types are those of nvrtc.h, unchanged from CUDA 11.1 to 13; the pointers that are
        // copied out of the library are kept together with it.
        unsafe {
            Ok(Api {
                version: *library.get(b"nvrtcVersion")?,
                error_string: *library.get(b"nvrtcGetErrorString")?,
                create: *library.get(b"nvrtcCreateProgram")?,
                compile: *library.get(b"nvrtcCompileProgram")?,
                destroy: *library.get(b"nvrtcDestroyProgram")?,
                log: Text {
                    size: *library.get(b"nvrtcGetProgramLogSize")?,
                    copy: *library.get(b"nvrtcGetProgramLog")?,
                },
                ptx: Text { size: *library.get(b"nvrtcGetPTXSize")?, copy: *library.get(b"nvrtcGetPTX")? },
                cubin: Text { size: *library.get(b"nvrtcGetCUBINSize")?, copy: *library.get(b"nvrtcGetCUBIN")? },
                _library: library,
            })
        }
    }

    /// NVRTC's version, major and minor.
    pub(super) fn version(&self) -> Result<(u32, u32), String> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both pointers are to integers that outlive the call.
        self.check(unsafe { (self.version)(&mut major, &mut minor) })?;
        Ok((major as u32, minor as u32))
    }

    /// A program from CUDA text; its name is used in messages for lines before the first `#line`.
    pub(super) fn program(&self, name: &str, source: &str) -> Result<Program<'_>, String> {
        let name = CString::new(name).map_err(|_| "the name has a zero byte".to_owned())?;
        let source = CString::new(source).map_err(|_| "the source has a zero byte".to_owned())?;
        let mut handle = ptr::null_mut();
        // SAFETY: both texts end in zero and are kept with the program; there are no headers, so their lists may be null.
        let status = unsafe { (self.create)(&mut handle, source.as_ptr(), name.as_ptr(), 0, ptr::null(), ptr::null()) };
        self.check(status)?;
        Ok(Program { api: self, handle, _texts: [name, source] })
    }

    fn check(&self, status: Status) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: nvrtcGetErrorString takes every number and returns a constant text.
        let text = unsafe { CStr::from_ptr((self.error_string)(status)) };
        Err(text.to_string_lossy().into_owned())
    }
}

/// A program inside NVRTC.
pub(super) struct Program<'a> {
    api: &'a Api,
    handle: Handle,
    /// NVRTC may refer to them until the program is destroyed.
    _texts: [CString; 2],
}

impl Program<'_> {
    /// Compiles it. What went wrong with the text is in the log, of which the error is only the title.
    pub(super) fn compile(&self, options: &[String]) -> Result<(), String> {
        let options: Vec<CString> = options
            .iter()
            .map(|option| CString::new(option.as_str()).map_err(|_| format!("the option {option:?} has a zero byte")))
            .collect::<Result<_, _>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        // SAFETY: the handle is live, and the pointers are to as many texts as stated, which outlive the call.
        self.api.check(unsafe { (self.api.compile)(self.handle, pointers.len() as c_int, pointers.as_ptr()) })
    }

    /// The bytes of a result; texts come without their closing zero.
    pub(super) fn read(&self, part: Part) -> Result<Vec<u8>, String> {
        let text = match part {
            Part::Log => &self.api.log,
            Part::Ptx => &self.api.ptx,
            Part::Cubin => &self.api.cubin,
        };
        let mut size = 0;
        // SAFETY: the handle is live.
        self.api.check(unsafe { (text.size)(self.handle, &mut size) })?;
        let mut bytes = vec![0_u8; size];
        // SAFETY: the buffer has the size that NVRTC asked for.
        self.api.check(unsafe { (text.copy)(self.handle, bytes.as_mut_ptr().cast()) })?;
        if !matches!(part, Part::Cubin) && bytes.last() == Some(&0) {
            bytes.pop();
        }
        Ok(bytes)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is live and is not used again.
        unsafe { (self.api.destroy)(&mut self.handle) };
    }
}
