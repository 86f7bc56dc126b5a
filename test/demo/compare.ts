/** Fingerprints for people: what there is, what differs. */
import { mb, table } from './screen.ts';

type Fingerprint = Map<string, string>;

const types: Record<string, string> = {
  '01': 'fifo',
  '02': 'device',
  '04': 'folder',
  '06': 'device',
  '10': 'file',
  '12': 'link',
};
/** A file of each kind, as far as there is one. */
const shown = [
  /^\/data\/0\.bin$/,
  /^\/data\/1\.log$/,
  /^\/odd\/owned$/,
  /^\/odd\/setuid$/,
  /^\/odd\/sparse$/,
  /^\/odd\/fifo$/,
  /^\/odd\/null$/,
  /^\/odd\/symlink$/,
  /^\/odd\/.*\n/,
];

/** "412 files and folders, 279 MB" */
export function sumUp(fingerprint: Fingerprint): string {
  let bytes = 0;
  for (const line of fingerprint.values()) bytes += Number(/ size=(\d+)/.exec(line)?.[1] ?? 0);
  return `${fingerprint.size} files and folders, ${mb(bytes)}`;
}

/**
 * A few of the files: type, mode, owner, time, first digits of the SHA-256 or what stands for it, path. With `before`, a sign in
 * front says whether each is the same.
 */
export function showFiles(fingerprint: Fingerprint, before?: Fingerprint): void {
  const paths = shown.flatMap((pattern) => [...fingerprint.keys()].find((path) => pattern.test(path)) ?? []);
  table(
    paths.map((path) => {
      const line = fingerprint.get(path) ?? '';
      const [mode = '', owner = '', time = '0', ...rest] = line.split(' ');
      const last = rest
        .join(' ')
        .replace(/^.*([0-9a-f]{12})[0-9a-f]{52}$/, '$1…')
        .replace(/^device=0$/, '');
      const at = `${new Date(Number(time) * 1000).toISOString().slice(0, 19)}Z`;
      const sign = before ? [before.get(path) === line ? '=' : '≠'] : [];
      return [...sign, types[mode.slice(0, 2)] ?? mode, mode.slice(2), owner, at, last, path.replaceAll('\n', '\\n')];
    }),
  );
}

/** One line for each path that is not the same. */
export function differences(before: Fingerprint, after: Fingerprint): string[] {
  const paths = [...new Set([...before.keys(), ...after.keys()])];
  return paths
    .filter((path) => before.get(path) !== after.get(path))
    .map((path) => `${path}: ${before.get(path) ?? 'not there'} became ${after.get(path) ?? 'not there'}`);
}
