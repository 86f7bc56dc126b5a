/** Names of backups, and the endings that tell the compression. */
import { LxstowError } from './errors.ts';
import type { Compression } from './schemas.ts';

/** File extension of an archive by its compression. */
const extensionOf: Record<Compression, string> = { gzip: '.tar.gz', zstd: '.tar.zst', none: '.tar' };

/** Content-Type of an archive by its compression. */
export const contentTypes: Record<Compression, string> = {
  gzip: 'application/gzip',
  zstd: 'application/zstd',
  none: 'application/x-tar',
};

/**
 * The name of a backup begun at `time`: `backup_2026-02-26-07-5218.tar.gz`, in UTC.
 * `clash` above 1 goes before the extension, for further backups of the same second.
 */
export function backupName(time: Date, compression: Compression, clash = 1): string {
  const [date, clock = ''] = time.toISOString().split('T');
  const [hour, minute = '', second = ''] = clock.slice(0, 8).split(':');
  return `backup_${date}-${hour}-${minute}${second}${clash > 1 ? `-${clash}` : ''}${extensionOf[compression]}`;
}

/** The compression that the ending of a backup's name states; undefined if it states none. */
export function compressionNamed(name: string): Compression | undefined {
  const ending = archiveEnding(name);
  return (Object.keys(extensionOf) as Compression[]).find((each) => extensionOf[each] === ending);
}

/** Throws bad-request if the ending of a chosen name does not fit the archive's compression. */
export function checkBackupName(name: string, compression: Compression): void {
  const ending = archiveEnding(name);
  if (ending !== undefined && ending !== extensionOf[compression]) {
    throw new LxstowError(
      'bad-request',
      `backup name ${JSON.stringify(name)} ends in ${ending}, but with compression ${compression} the archive is a ${extensionOf[compression]}`,
    );
  }
}

/** `.tar`, or `.tar.gz` and the like; undefined if the name has no such ending. */
function archiveEnding(name: string): string | undefined {
  return /\.tar(\.[a-z0-9]+)?$/.exec(name)?.[0];
}
