from analysis.reduce import *
