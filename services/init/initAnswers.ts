/** The answers to `lxstow init`: where backups go, when, and for how long they are kept. Reads answers and flags; throws bad-request with the reason. */
import { homedir } from 'node:os';
import { isAbsolute, join, normalize } from 'node:path';
import { LxstowError } from '../contract/errors.ts';

export interface S3Place {
  endpoint: string;
  bucket: string;
  region: string;
  accessKey: string;
  secretKey: string;
  /** PEM file with the CA of its certificate. */
  ca?: string | undefined;
}

export interface FolderPlace {
  folder: string;
}

export type Store = S3Place | FolderPlace;

/** Keys of `s3` without which the backups are not found, or not read. Nobody is asked for them: they are in the configuration, or in the environment. */
export interface Access {
  prefix?: string;
  pathStyle?: boolean;
  checksumHeaders?: boolean;
}

/** What is undefined stays as it is in an existing schedule, and is usual in a new one. */
export interface Nightly {
  /** `03:00`, in this machine's zone. */
  time: string | undefined;
  keepDaily: number | undefined;
}

export const usualBucket = 'lxstow';
export const usualRegion = 'us-east-1';
export const usualTime = '03:00';
export const usualKeepDaily = 14;

/** A folder, or the URL of an S3 server, which may end with the bucket's name. */
export function readPlace(text: string): { folder: string } | { endpoint: string; bucket: string | undefined } {
  const given = text.trim();
  if (/^s3:/i.test(given))
    throw wrong(`${given}: give the URL of the S3 server, such as https://s3.example.net/lxstow`);
  if (!/^https?:/i.test(given)) return { folder: readFolder(given) };
  const url = URL.canParse(given) ? new URL(given) : undefined;
  const [bucket = '', more] = (url?.pathname ?? '').split('/').filter(Boolean);
  if (!url?.hostname || more !== undefined || url.search || url.hash)
    throw wrong(`${given} is not the URL of an S3 server: give https://HOST[:PORT], or https://HOST[:PORT]/BUCKET`);
  if (url.username || url.password) throw wrong('do not put keys into the URL: init asks for them next');
  return { endpoint: url.origin, bucket: bucket === '' ? undefined : readBucket(bucket) };
}

function readFolder(given: string): string {
  const path = given === '~' || given.startsWith('~/') ? join(homedir(), given.slice(1)) : given;
  if (path === '') throw wrong('give a folder, or the URL of an S3 server');
  if (/^[a-z]+:\/\//i.test(path)) throw wrong(`${path}: give a folder, or the https:// URL of an S3 server`);
  if (!isAbsolute(path)) throw wrong(`${path} is neither a URL nor an absolute path: give /${path}, or https://…`);
  const folder = normalize(path).replace(/(.)\/+$/, '$1');
  if (folder === '/') throw wrong('/ is the whole machine: give a folder that is only for backups');
  if (/["\n\\]/.test(folder)) throw wrong(`${folder}: choose a path without quotes, backslashes and line breaks`);
  return folder;
}

export function readBucket(text: string): string {
  if (/^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/.test(text)) return text;
  throw wrong(
    `${JSON.stringify(text)} cannot be a bucket's name: use 3 to 63 lower-case letters, digits, dots and hyphens`,
  );
}

export function readKey(text: string): string {
  const key = text.trim();
  if (key === '') throw wrong('a key is needed');
  return key;
}

/** `03:00`; undefined for `no`. */
export function readTime(text: string): string | undefined {
  if (/^(no|n|never)$/i.test(text.trim())) return undefined;
  const [, hour = '', minute = '00'] = /^(\d{1,2})(?::(\d{2}))?$/.exec(text.trim()) ?? [];
  if (hour === '' || Number(hour) > 23 || Number(minute) > 59)
    throw wrong(`${JSON.stringify(text)} is not a time of day: give it as 03:00, or no`);
  return `${hour.padStart(2, '0')}:${minute}`;
}

export function readDays(text: string): number {
  const days = Number(text.trim());
  if (/^\d{1,4}$/.test(text.trim()) && days > 0) return days;
  throw wrong(`${JSON.stringify(text)} is not a number of nights: give 14, for example`);
}

export function readYes(text: string): boolean {
  if (/^(y|yes)$/i.test(text.trim())) return true;
  if (/^(n|no)$/i.test(text.trim())) return false;
  throw wrong(`${JSON.stringify(text)}: answer yes or no`);
}

/** The environment takes precedence over the configuration. Throws bad-request. */
export function readAccess({ prefix, pathStyle, checksumHeaders }: Access, env: NodeJS.ProcessEnv): Access {
  const given = {
    prefix: env.LXSTOW_S3_PREFIX ?? prefix,
    pathStyle: readSwitch('LXSTOW_S3_PATH_STYLE', env) ?? pathStyle,
    checksumHeaders: readSwitch('LXSTOW_S3_CHECKSUM_HEADERS', env) ?? checksumHeaders,
  };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
}

function readSwitch(name: string, env: NodeJS.ProcessEnv): boolean | undefined {
  const text = env[name];
  if (text === undefined) return undefined;
  if (text === 'true' || text === 'false') return text === 'true';
  throw wrong(`${name} is ${JSON.stringify(text)}: set it to true or false`);
}

/** In words: the folder, or the bucket and its server. */
export function placeText(store: Store): string {
  return 'folder' in store ? `the folder ${store.folder}` : `the bucket ${store.bucket} at ${store.endpoint}`;
}

function wrong(message: string): LxstowError {
  return new LxstowError('bad-request', message);
}
