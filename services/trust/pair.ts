/** Finds faults of a certificate and its private key, for `doctor` and for servers that refuse to start with them. */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { LxstowError } from '../contract/errors.ts';
import { pemCertificates } from './certificates.ts';

interface Fault {
  said: string;
  /** What to do. */
  advice: string;
}

/** The pair's files, and the settings that name them. */
export interface PairPlace {
  files: readonly [certificate: string, key: string];
  settings: readonly [certificate: string, key: string];
}

/** The fault of a key that cannot be used, or belongs to another certificate; undefined when there is none. */
export function faultOfKey(
  certificate: X509Certificate,
  key: string,
  { files: [, file], settings: [certificateSetting, keySetting] }: PairPlace,
): Fault | undefined {
  try {
    if (certificate.checkPrivateKey(createPrivateKey(key))) return undefined;
  } catch (error) {
    return {
      said: `the key in ${file} cannot be used: ${(error as Error).message}`,
      advice: `Set ${keySetting} to a PEM file, without a passphrase, that this user may read.`,
    };
  }
  return {
    said: `the key in ${file} does not belong to the certificate`,
    advice: `Set ${certificateSetting} and ${keySetting} to a pair.`,
  };
}

/** Parses the first certificate in PEM text. Throws when there is none. */
function firstCertificate(text: string): X509Certificate {
  const [first] = pemCertificates(text);
  if (first === undefined) throw new Error('there is no certificate (PEM) in it');
  return new X509Certificate(first);
}

/** Throws bad-config for a certificate and a key (PEM) that TLS would refuse. */
export function checkPair(certificate: string, key: string, place: PairPlace): void {
  const fault = faultOfPair(certificate, key, place);
  if (fault) throw new LxstowError('bad-config', `${fault.said}. ${fault.advice}`);
}

export function faultOfPair(certificate: string, key: string, place: PairPlace): Fault | undefined {
  const [file, setting] = [place.files[0], place.settings[0]];
  try {
    return faultOfKey(firstCertificate(certificate), key, place);
  } catch (error) {
    return {
      said: `${setting}: ${file} cannot be used: ${(error as Error).message}`,
      advice: `Set ${setting} to a PEM file that this user may read.`,
    };
  }
}
