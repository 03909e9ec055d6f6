/* The network card: virtio-net over PCI, by the legacy interface (virtio 1.2, 4.1.4.8 and 5.1).
 *
 * Frames are Ethernet frames without checksum at the end. Nothing is copied: what arrived is handed on where the
 * device wrote it, and a frame to be sent is written where the device will read it.
 */
#pragma once
#include "memory.h"

enum { FRAME_BYTES = 1514 };

bool nic_start(void);                   /* false where there is no such card */
const uint8_t *nic_address(void);       /* its six bytes */

bool nic_has_frame(void);
/* Hands one frame that arrived to `handler`; the frame is only good until it returns. */
void nic_receive(void (*handler)(const uint8_t *frame, size_t length));

uint8_t *nic_frame(void);               /* room for the next frame: FRAME_BYTES */
void nic_send(size_t length);           /* queues the frame that lies there */
void nic_flush(void);                   /* tells the device about everything that was queued */
