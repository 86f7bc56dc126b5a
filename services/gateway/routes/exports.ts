/** Streams archives to clients. Each part is verified before a byte of it is sent; a damaged part cuts the answer. */
import type { Request, Response } from 'express';
import type { SlotMemory } from '../../archive/slotMemory.ts';
import { type ByteRange, largestPart, verifiedParts, write } from '../../archive/verifiedParts.ts';
import { checkArchive, readArchive } from '../../backups/archives.ts';
import { archiveKey } from '../../backups/keys.ts';
import { IdleWatch } from '../../concurrency/idleWatch.ts';
import { contentTypes } from '../../contract/backupNames.ts';
import { LxstowError } from '../../contract/errors.ts';
import type { BackupAddress, Manifest } from '../../contract/schemas.ts';
import type { Claim } from '../../coordination/claims.ts';
import { clientOf } from '../access/apiClient.ts';
import { noteForAudit } from '../access/audit.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { checkIfMatch, ended, namesEtag, query, storedBackupOf, traceOfRequest } from '../http/requests.ts';
import { sync } from '../http/respond.ts';
import type { RouteGroup } from '../http/route.ts';

/** While one part is sent, the next one is read. */
const partsAhead = 2;
/** Bytes of one write. A client must read it within gateway.clientIdleTimeoutMs. */
const sliceBytes = 64 * 1024;
const usualExpirySeconds = 3600;
/** S3's own limit. */
const longestExpirySeconds = 7 * 24 * 3600;

/** These routes give away whole instances, with everything in them. */
export const exportRoutes: RouteGroup = {
  path: '/1.0/instances/{instance}/backups',
  routes: [
    { method: 'GET', path: '/{backup}/export', least: 'operator', projects: 'named', run: exportBackup },
    { method: 'GET', path: '/{backup}/export/url', least: 'operator', projects: 'named', run: presignExport },
  ],
};

interface Exported {
  address: BackupAddress;
  manifest: Manifest;
  claim: Claim;
  memory: SlotMemory;
}

async function exportBackup(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { transfers } = parts;
  const address = storedBackupOf(request, parts.config);
  const signal = ended(response);
  await using claim = await transfers.claimToRead(address);
  const { manifest } = await storedArchive(parts, address, signal);
  const { size } = manifest.archive;
  const headers = headersOf(manifest);
  checkIfMatch(request, headers.etag);
  if (namesEtag(request.get('if-none-match'), headers.etag)) return void response.status(304).set(headers).end();
  const range = rangeOf(request, response, size, headers);
  if (request.method !== 'HEAD') noteForAudit(response, { exported: range ?? 'all' });
  const { start, end } = range ?? { start: 0, end: size - 1 };
  const begin = () => {
    response.writeHead(range ? 206 : 200, {
      ...headers,
      'content-length': end - start + 1,
      ...(range && { 'content-range': `bytes ${start}-${end}/${size}` }),
    });
  };
  if (request.method === 'HEAD') {
    begin();
    return void response.end();
  }
  using place = transfers.begin(clientOf(request).fingerprint);
  try {
    await send(parts, { address, manifest, claim, memory: place.memory }, { start, end }, response, begin, signal);
  } catch (error) {
    if (!response.headersSent) throw error;
    const { log } = transfers.tools;
    const trace = traceOfRequest(request).id;
    if (signal.aborted) log.info('export given up by its client', { ...address, trace });
    else log.error('export cut', { ...address, trace, error });
    response.destroy();
  }
}

async function presignExport(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const address = storedBackupOf(request, parts.config);
  const expirySeconds = expiryOf(request);
  const { manifest, key } = await storedArchive(parts, address, ended(response));
  const filename = filenameOf(address);
  const expires_at = new Date(Date.now() + expirySeconds * 1000).toISOString();
  const url = await parts.transfers.tools.presigner.presign(key, { expirySeconds, filename });
  noteForAudit(response, { exported: 'url', expires: expires_at });
  sync(response, { url, expires_at, size: manifest.archive.size });
}

/** The manifest and the archive's key. Throws when the archive differs from its manifest. */
async function storedArchive(
  { config, catalog, transfers }: GatewayParts,
  address: BackupAddress,
  signal: AbortSignal,
): Promise<{ manifest: Manifest; key: string }> {
  const manifest = await catalog.manifest(address, signal);
  const key = archiveKey(config.s3.prefix, address);
  await checkArchive(manifest.archive, address, key, transfers.tools.store, signal);
  return { manifest, key };
}

/** Sends the stored bytes of `range`; calls `begin` before the first. Rejects before any byte of a damaged part is sent. */
async function send(
  { config, metrics, transfers }: GatewayParts,
  { address, manifest: { archive }, claim, memory }: Exported,
  range: ByteRange,
  response: Response,
  begin: () => void,
  gone: AbortSignal,
): Promise<void> {
  const { store, threads, clientIdleTimeoutMs } = transfers.tools;
  const key = archiveKey(config.s3.prefix, address);
  using idle = new IdleWatch(
    clientIdleTimeoutMs,
    `the client of the export of ${address.instance}/${address.backup}`,
    'client-stalled',
  );
  const signal = AbortSignal.any([gone, idle.signal]);
  const options = {
    fetch: (start: number, into: Buffer) => readArchive(archive, address, key, store, start, into, signal),
    threads,
    pool: memory.pool('parts', partsAhead, largestPart(archive)),
    ahead: partsAhead,
    signal,
  };
  for await (const { start, bytes, release } of verifiedParts(archive.parts, options, range)) {
    if (!response.headersSent) begin();
    // Everything has been read, so a client that gets the last byte can delete the backup at once.
    const last = start + bytes.length > range.end;
    if (last) await claim.release();
    const end = Math.min(bytes.length, range.end + 1 - start);
    const first = Math.max(0, range.start - start);
    for (let at = first; at < end; at += sliceBytes) {
      idle.watch(true);
      await write(response, bytes.subarray(at, Math.min(end, at + sliceBytes)), signal);
      idle.watch(false);
    }
    metrics.sent.inc({ peer: 'client' }, end - first);
    release();
  }
  response.end();
}

function headersOf({ backup, archive }: Manifest) {
  return {
    'content-type': contentTypes[archive.compression],
    'content-disposition': `attachment; filename="${filenameOf({ ...backup, backup: backup.name })}"`,
    'accept-ranges': 'bytes',
    'cache-control': 'private, no-cache',
    'last-modified': new Date(backup.created).toUTCString(),
    etag: `"${archive.etag}"`,
  };
}

function filenameOf({ instance, backup }: Pick<BackupAddress, 'instance' | 'backup'>): string {
  return `${instance}-${backup}`;
}

/** The range that the client asks for; undefined: everything. A request for several ranges gets everything, as RFC 9110 allows. */
function rangeOf(
  request: Request,
  response: Response,
  size: number,
  headers: { etag: string; 'last-modified': string },
): ByteRange | undefined {
  const onlyIf = request.get('if-range');
  if (onlyIf !== undefined && onlyIf !== headers.etag && onlyIf !== headers['last-modified']) return undefined;
  const ranges = request.range(size);
  if (ranges === -1) {
    response.set('content-range', `bytes */${size}`);
    throw new LxstowError(
      'range-not-satisfiable',
      `the archive has ${size} bytes: ${request.get('range')} is outside of it`,
    );
  }
  if (!Array.isArray(ranges) || ranges.type !== 'bytes' || ranges.length !== 1) return undefined;
  return ranges[0];
}

function expiryOf(request: Request): number {
  const text = query(request, 'expiry');
  const seconds = text === undefined ? usualExpirySeconds : Number(text);
  if (!Number.isInteger(seconds) || seconds < 1 || seconds > longestExpirySeconds)
    throw new LxstowError(
      'bad-request',
      `?expiry=${text} is not a number of seconds from 1 to ${longestExpirySeconds}`,
    );
  return seconds;
}
