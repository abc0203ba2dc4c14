from analysis.softmax import *
from analysis.softmax import OneSide, Side
