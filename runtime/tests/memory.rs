//! Memory of a GPU is had, written and given back in the order of its stream.

use packscan_runtime::{Buffer, Device, Dtype};

fn gpu() -> Option<Device> {
    Device::cuda(0).inspect_err(|error| println!("skipped: {error}")).ok()
}

#[test]
fn the_host_may_change_what_it_uploaded() {
    let Some(device) = gpu() else { return };
    // More uploads than can be under way, of less, as much and more than passes through pinned memory at once.
    for len in [1, 1000, 65_536, 65_537, 1 << 20] {
        let mut values = vec![0u32; len];
        let buffers: Vec<Buffer> = (0..100)
            .map(|upload| {
                values.fill(upload);
                let buffer = Buffer::from_slice(&device, &values).unwrap();
                values.fill(u32::MAX);
                buffer
            })
            .collect();
        for (upload, buffer) in buffers.iter().enumerate() {
            assert!(buffer.to_vec::<u32>().unwrap().iter().all(|&value| value == upload as u32), "{upload} of {len}");
            assert!(buffer.fence_holds().unwrap());
        }
    }
}

#[test]
fn parts_are_written_and_cleared_alone() {
    let Some(device) = gpu() else { return };
    let flat = Buffer::from_slice(&device, &[1.0f32; 1000]).unwrap();
    flat.part(10, 5, 4).unwrap().write(&[2.0f32; 20]).unwrap();
    flat.part(15, 5, 1).unwrap().zero().unwrap();
    let value = |i| if (15..20).contains(&i) { 0.0 } else { 1.0 + f32::from((10..30).contains(&i)) };
    assert_eq!(flat.to_vec::<f32>().unwrap(), (0..1000).map(value).collect::<Vec<f32>>());
    assert_eq!(flat.part(28, 4, 1).unwrap().to_vec::<f32>().unwrap(), [2.0, 2.0, 1.0, 1.0]);
    flat.zero().unwrap();
    assert_eq!(flat.to_vec::<f32>().unwrap(), [0.0; 1000]);
    assert!(flat.fence_holds().unwrap());
}

#[test]
fn fresh_memory_is_unwritten_even_if_it_was_used_before() {
    let Some(device) = gpu() else { return };
    for _ in 0..10 {
        drop(Buffer::from_slice(&device, &[1.0f32; 5000]).unwrap());
        let fresh = Buffer::unwritten(&device, Dtype::F32, 5000).unwrap();
        assert!(fresh.to_vec::<f32>().unwrap().iter().all(|value| value.is_nan()));
        assert!(fresh.fence_holds().unwrap());
    }
}

#[test]
fn free_memory_and_use_are_told() {
    let Some(device) = gpu() else { return };
    let Device::Cuda(cuda) = &device else { unreachable!("a GPU was opened") };
    let (before, total) = cuda.memory().unwrap();
    assert!(0 < before && before <= total);
    let buffer = Buffer::unwritten(&device, Dtype::U32, 64 << 20).unwrap();
    assert_eq!((device.allocated_bytes(), device.peak_bytes()), (256 << 20, 256 << 20));
    drop(buffer);
    assert_eq!((device.allocated_bytes(), device.peak_bytes()), (0, 256 << 20));
    // What is kept for the next buffers is free. Other programs may use the GPU too, so no more is said.
    assert!(cuda.memory().unwrap().0 > 0);
    assert!(Buffer::unwritten(&device, Dtype::U32, 1 << 44).is_err());
    // And after a refusal the GPU still works.
    assert_eq!(Buffer::from_slice(&device, &[7u32]).unwrap().to_vec::<u32>().unwrap(), [7]);
}
