/** A CRC-32 as S3 writes it: base64 of its four bytes, the highest first. */
export function crcInS3(crc: number): string {
  const sum = Buffer.alloc(4);
  sum.writeUInt32BE(crc);
  return sum.toString('base64');
}
