/** Reads and checks parts of requests. */
import type { Request, Response } from 'express';
import { knownRemote } from '../../contract/config.ts';
import { LxstowError } from '../../contract/errors.ts';
import {
  type Address,
  type BackupAddress,
  type Compression,
  type Config,
  check,
  type Requestor,
  type SchemaName,
  type Tags,
} from '../../contract/schemas.ts';
import { parseTagging } from '../../contract/tagging.ts';
import { parseOwnName } from '../../lxd/ownNames.ts';
import { refusalOf } from '../../notices/allowedEndpoints.ts';
import type { Trace } from '../../telemetry/trace.ts';
import { clientOf } from '../access/apiClient.ts';

export function requestorOf(request: Request): Requestor {
  return { username: clientOf(request).fingerprint, protocol: 'tls', address: request.socket.remoteAddress ?? '' };
}

/** The request's trace: from the client's header, or a new one. */
export function traceOfRequest(request: Request): Trace {
  return request.res?.locals.trace;
}

/** A parameter of the path. */
export function parameter(request: Request, name: string, schema: SchemaName): string {
  return check(schema, request.params[name], name) as string;
}

/** A parameter of the query, or undefined. Throws bad-request for one that is given twice. */
export function query(request: Request, name: string, schema?: SchemaName): string | undefined {
  const value = request.query[name];
  if (value === undefined || value === '') return undefined;
  if (typeof value !== 'string') throw new LxstowError('bad-request', `?${name}= is given more than once`);
  return schema ? (check(schema, value, `?${name}=`) as string) : value;
}

export function flag(request: Request, name: string): boolean | undefined {
  const value = query(request, name);
  if (value === undefined) return undefined;
  if (value === 'true' || value === '1') return true;
  if (value === 'false' || value === '0') return false;
  throw new LxstowError('bad-request', `?${name}=${value} is neither true nor false`);
}

export function compressionQuery(request: Request): Compression | undefined {
  return query(request, 'compression', 'names.json#/$defs/compression') as Compression | undefined;
}

/**
 * The webhook that gets the notice of the end: the body's `notifyEndpoint`, otherwise the query's. Throws forbidden for a URL that requests may not name; the error does not
 * contain the URL.
 */
export function endpointOf(request: Request, config: Config['notify'], inBody?: string): { notifyEndpoint?: string } {
  const notifyEndpoint = inBody ?? query(request, 'notifyEndpoint', 'names.json#/$defs/endpoint');
  if (notifyEndpoint === undefined) return {};
  const refusal = refusalOf(notifyEndpoint, config);
  if (refusal !== undefined) throw new LxstowError('forbidden', `notifyEndpoint: ${refusal}`);
  return { notifyEndpoint };
}

export function tagsOf(request: Request): Tags {
  const header = request.get('x-amz-tagging');
  return header === undefined ? {} : parseTagging(header);
}

/** Throws bad-request for S3's headers for a lock, which lxstow does not honour. `instead`: what to do. */
export function refuseLockHeaders(request: Request, instead: string): void {
  const asked = ['mode', 'retain-until-date', 'legal-hold'].map((word) => `x-amz-object-lock-${word}`);
  const found = asked.find((name) => request.get(name) !== undefined);
  if (found) throw new LxstowError('bad-request', `${found}: this does not lock a backup; ${instead}`);
}

/** The project of a list, or undefined for all: `?project=` (default: `default`) or `?all-projects=true`. */
export function listedProject(request: Request): string | undefined {
  const project = query(request, 'project', 'names.json#/$defs/projectName');
  const all = flag(request, 'all-projects') ?? false;
  if (all && project !== undefined)
    throw new LxstowError('bad-request', 'use either ?project= or ?all-projects=true, not both');
  return all ? undefined : (project ?? 'default');
}

/** The host and project of a request: `?target=` and `?project=`. Throws not-found for a host that is not in `remotes`. */
export function placeOf(
  request: Request,
  remotes: string[] | undefined,
  defaultRemote: string,
): Omit<Address, 'instance'> {
  const remote = query(request, 'target', 'names.json#/$defs/remoteName') ?? defaultRemote;
  return {
    remote: remotes ? knownRemote(remote, remotes) : remote,
    project: query(request, 'project', 'names.json#/$defs/projectName') ?? 'default',
  };
}

/** The JSON body. No body, null and "" mean {}, because LXD's clients send them. */
export function bodyOf(request: Request): unknown {
  const { body } = request as { body: unknown };
  return body === undefined || body === null || body === '' ? {} : body;
}

/** The instance that a path names, on a remote of the configuration. */
export function instanceOf(request: Request, { remotes, gateway }: Config): Address {
  return {
    ...placeOf(request, Object.keys(remotes), gateway.defaultRemote),
    instance: parameter(request, 'instance', 'names.json#/$defs/instanceName'),
  };
}

/** The backup that a path names, on a remote of the configuration. */
export function backupOf(request: Request, config: Config): BackupAddress {
  return { ...instanceOf(request, config), backup: parameter(request, 'backup', 'names.json#/$defs/backupName') };
}

/** The same for reading stored backups, whose host need not be in the configuration any more. */
export function storedInstanceOf(request: Request, { gateway }: Config): Address {
  return {
    ...placeOf(request, undefined, gateway.defaultRemote),
    instance: parameter(request, 'instance', 'names.json#/$defs/instanceName'),
  };
}

export function storedBackupOf(request: Request, config: Config): BackupAddress {
  return { ...storedInstanceOf(request, config), backup: parameter(request, 'backup', 'names.json#/$defs/backupName') };
}

/** Throws bad-request for names that restores use for their temporary instances. */
export function assertNotOwn(name: string): void {
  if (parseOwnName(name)) throw new LxstowError('bad-request', `the name ${name} is reserved for lxstow`);
}

/** Aborts when the client has disconnected. */
export function ended(response: Response): AbortSignal {
  const controller = new AbortController();
  response.once('close', () => controller.abort(new LxstowError('cancelled', 'the client has disconnected')));
  return controller.signal;
}

/** Throws precondition-failed if the client's If-Match does not name this ETag. */
export function checkIfMatch(request: Request, etag: string): void {
  const wanted = request.get('if-match');
  if (wanted !== undefined && !namesEtag(wanted, etag))
    throw new LxstowError('precondition-failed', `it has changed: the ETag is ${etag}, not ${wanted}; read it again`);
}

/** Whether the list of ETags in a condition contains this one. */
export function namesEtag(header: string | undefined, etag: string): boolean {
  return header?.split(',').some((each) => each.trim() === '*' || each.trim() === etag) ?? false;
}
