/** Formats a CRC-32 as S3 does: base64 of its four bytes, big-endian. */
export function crcInS3(crc: number): string {
  const sum = Buffer.alloc(4);
  sum.writeUInt32BE(crc);
  return sum.toString('base64');
}
